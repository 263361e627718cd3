class Options:
    """Known options as attributes; an unknown one is an AttributeError. Adding one gives it no value yet."""

    def __init__(self, options_templates=None, restricted=None, *, filename="", secrets=""):
        self.__dict__["data_labels"] = options_templates or {}
        self.__dict__["data"] = {key: option.default for key, option in self.data_labels.items()}

    def __setattr__(self, key, value):
        known = key in self.data or key in self.data_labels
        (self.data if known else self.__dict__)[key] = value

    def __getattr__(self, item):
        if item in self.data:
            return self.data[item]
        if item in self.data_labels:
            return self.data_labels[item].default
        raise AttributeError(item)

    def add_option(self, key, info):
        self.data_labels[key] = info

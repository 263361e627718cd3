from modules.shared_cmd_options import cmd_opts


class OptionInfo:
    def __init__(self, default=None, label="", component=None, component_args=None, onchange=None, section=None,
                 refresh=None, comment_before="", comment_after="", infotext=None, restrict_api=False,
                 category_id=None):
        self.default = default
        self.label = label
        self.component = component
        self.component_args = component_args
        self.section = section
        self.comment_after = comment_after
        self.do_not_save = False

    def info(self, info):
        self.comment_after += info
        return self

    def html(self, html):
        self.comment_after += html
        return self

    def needs_reload_ui(self):
        return self


def options_section(section_identifier, options_dict):
    for option in options_dict.values():
        option.section = section_identifier[:2]
    return options_dict


class Options:
    """Known options as attributes; an unknown one is an AttributeError."""

    def __init__(self, data_labels, restricted_opts):
        self.__dict__["data_labels"] = data_labels
        self.__dict__["data"] = {key: option.default for key, option in data_labels.items()}
        self.__dict__["restricted_opts"] = restricted_opts

    def __setattr__(self, key, value):
        if key not in self.data and key not in self.data_labels:
            self.__dict__[key] = value
            return
        if cmd_opts.freeze_settings:
            raise AssertionError("settings are frozen")
        self.data[key] = value

    def __getattr__(self, item):
        if item in self.data:
            return self.data[item]
        if item in self.data_labels:
            return self.data_labels[item].default
        raise AttributeError(item)

    def add_option(self, key, info):
        self.data_labels[key] = info
        if not info.do_not_save:
            self.data.setdefault(key, info.default)

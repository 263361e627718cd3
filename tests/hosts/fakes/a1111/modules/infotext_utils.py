import sys

sys.modules["modules.generation_parameters_copypaste"] = sys.modules[__name__]  # its older name

paste_fields = {}
registered_param_bindings = []


class ParamBinding:
    def __init__(self, paste_button, tabname, source_text_component=None, source_image_component=None,
                 source_tabname=None, override_settings_component=None, paste_field_names=None):
        self.paste_button = paste_button
        self.tabname = tabname
        self.source_text_component = source_text_component
        self.source_image_component = source_image_component
        self.source_tabname = source_tabname


def reset():
    paste_fields.clear()
    registered_param_bindings.clear()


def add_paste_fields(tabname, init_img, fields, override_settings_component=None):
    paste_fields[tabname] = {"init_img": init_img, "fields": fields}


def register_paste_params_button(binding):
    registered_param_bindings.append(binding)


def connect_paste_params_buttons():
    """A binding to a tab without fields takes the whole page down."""
    for binding in registered_param_bindings:
        assert paste_fields[binding.tabname] is not None
        if binding.source_tabname:
            assert paste_fields[binding.source_tabname] is not None

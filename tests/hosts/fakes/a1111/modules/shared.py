from modules import options, shared_cmd_options

cmd_opts = shared_cmd_options.cmd_opts
hide_dirs = {"visible": not cmd_opts.hide_ui_dir_config}

demo = None
device = None
state = None
prompt_styles = None
options_templates = None
opts = None
restricted_opts = None
tab_names = []
sd_upscalers = []

options_section = options.options_section
OptionInfo = options.OptionInfo

from modules import shared_items  # noqa: E402, F401  (it puts sd_model here)

import sys

import modules.styles
from modules import cmd_args, devices, options_handler, paths, shared_state, ui_definitions
from modules.ui_definitions import OptionInfo, options_section  # noqa: F401

demo = None
api = None
cmd_opts = cmd_args.parse_args()
hide_dirs = {"visible": not cmd_opts.hide_ui_dir_config}
tab_names = []
sd_upscalers = []
state = shared_state.State()
script_path = paths.script_path
data_path = paths.data_path
models_path = paths.models_path
opts = options_handler.Options(ui_definitions.create_settings(cmd_opts))
prompt_styles = modules.styles.StyleDatabase(opts)
device = devices.device

from modules.modeldata import Shared  # noqa: E402

sys.modules[__name__].__class__ = Shared

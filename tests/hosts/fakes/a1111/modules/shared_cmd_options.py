import os

from modules import cmd_args
from modules.paths_internal import models_path

parser = cmd_args.parser
parser.add_argument("--lora-dir", default=os.path.join(models_path, "Lora"))  # by an extension of the host's own
cmd_opts = parser.parse_args(["--use-cpu", "text2video"])  # a host with a card, and tests without one

import argparse
import os

from modules.paths_internal import data_path

parser = argparse.ArgumentParser()
parser.add_argument("--use-cpu", nargs="+", default=[])
parser.add_argument("--hide-ui-dir-config", action="store_true")
parser.add_argument("--freeze-settings", action="store_true")
parser.add_argument("--embeddings-dir", default=os.path.join(data_path, "embeddings"))
parser.add_argument("--api-auth", default=None)

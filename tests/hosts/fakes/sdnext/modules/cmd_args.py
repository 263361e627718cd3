import argparse


def _parser():
    parser = argparse.ArgumentParser()
    parser.add_argument("--hide-ui-dir-config", action="store_true")
    parser.add_argument("--use-cpu", nargs="+", default=[])
    parser.add_argument("--api-auth", default=None)
    parser.add_argument("--embeddings-dir", default=None)
    parser.add_argument("--lora-dir", default=None)
    parser.add_argument("--lowvram", action="store_true")
    parser.add_argument("--freeze", action="store_true")
    return parser


parser = _parser()


def parse_args():
    return parser.parse_args([])

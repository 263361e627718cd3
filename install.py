"""Installs what Text2Video needs and the Python around it lacks; a web UI runs this before it starts.

Nothing that is there is changed: every installed package is held at its version while pip works. torch, gradio, numpy
and Pillow are the web UI's own affair and never installed here. Standard library only, any working directory.
"""

import os
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, distributions, version

PACKAGES = ["einops", "safetensors", "omegaconf", "av", "tqdm", "ftfy", "regex", "huggingface_hub", "filelock"]
ALONE = ["open_clip_torch"]  # only its tokenizer is used, which needs ftfy and regex and none of its other wishes


def missing(packages):
    """Those of `packages` that are not installed, in any version."""
    def lacking(package):
        try:
            return not version(package)
        except PackageNotFoundError:
            return True

    return [package for package in packages if lacking(package)]


def pip_install(packages, *options):
    """pip, with everything that is installed held where it is; whether it worked."""
    held = {dist.metadata["Name"]: dist.version for dist in distributions() if dist.metadata["Name"] and dist.version}
    index = ["--index-url", os.environ["INDEX_URL"]] if os.environ.get("INDEX_URL") else []
    with tempfile.TemporaryDirectory() as folder:
        constraints = os.path.join(folder, "installed.txt")
        with open(constraints, "w", encoding="utf-8") as file:
            file.writelines(f"{name}=={number}\n" for name, number in held.items())
        command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--prefer-binary",
                   "--constraint", constraints, *index, *options, *packages]
        return subprocess.run(command, check=False).returncode == 0


def main():
    """Installs what is missing; the exit code says whether all is there now."""
    packages, alone = missing(PACKAGES), missing(ALONE)
    if packages or alone:
        print("Text2Video: installing", ", ".join(packages + alone))
    worked = (not packages or pip_install(packages)) and (not alone or pip_install(alone, "--no-deps"))
    if not worked:
        print("Text2Video: pip could not install that; its lines above say why. Without it there will be no tab.")
    return 0 if worked else 1


if __name__ == "__main__":
    sys.exit(main())

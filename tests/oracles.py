"""Other people's implementations, which the tests compare with."""

from importlib.machinery import SourceFileLoader
from importlib.metadata import distribution
from types import ModuleType


def modelscope_module(name: str) -> ModuleType:
    """`unet_sd`, `autoencoder` or `diffusion` of modelscope's text2video, without importing the package.

    The package wants much that these files do not need.
    """
    path = distribution("modelscope").locate_file(f"modelscope/models/multi_modal/video_synthesis/{name}.py")
    module = ModuleType(name)
    SourceFileLoader(name, str(path)).exec_module(module)
    return module

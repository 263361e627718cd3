"""What has to happen before any test module is imported."""

import gc
import os
import sys

os.environ["TRITON_INTERPRET"] = "1"  # kernels run on the CPU; Triton looks at this when it is imported

try:
    import torchvision  # type: ignore[import-untyped]  # noqa: F401
except (ImportError, RuntimeError):
    # transformers and diffusers use torchvision where it is installed, even where it cannot be imported (a wheel
    # built for another torch). Nothing here needs it, so such a torchvision is hidden from them.
    sys.modules["torchvision"] = None  # type: ignore[assignment]


def pytest_collection_finish() -> None:
    """What was imported by now will stay, and need not be looked through by each of the many collections that follow
    when memory runs out."""
    gc.collect()
    gc.freeze()

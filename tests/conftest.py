"""What has to happen before any test module is imported."""

import gc
import os
import sys

import pytest

os.environ["TRITON_INTERPRET"] = "1"  # kernels run on the CPU; Triton looks at this when it is imported

try:
    import torchvision  # type: ignore[import-untyped]  # noqa: F401
except (ImportError, RuntimeError):
    # transformers and diffusers use torchvision where it is installed, even where it cannot be imported (a wheel
    # built for another torch). Nothing here needs it, so such a torchvision is hidden from them.
    sys.modules["torchvision"] = None  # type: ignore[assignment]


@pytest.fixture(scope="module", autouse=True)
def past_is_kept() -> None:
    """Garbage is collected after every film and whenever memory runs out: among what a module's tests have made, not
    among all that has been imported and cached before them, which is far more."""
    gc.collect()
    gc.freeze()

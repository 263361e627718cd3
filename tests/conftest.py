"""What has to happen before any test module is imported."""

import sys

try:
    import torchvision  # type: ignore[import-untyped]  # noqa: F401
except (ImportError, RuntimeError):
    # transformers and diffusers use torchvision where it is installed, even where it cannot be imported (a wheel
    # built for another torch). Nothing here needs it, so such a torchvision is hidden from them.
    sys.modules["torchvision"] = None  # type: ignore[assignment]

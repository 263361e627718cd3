"""Computing without gradients, as far as a device goes along with that."""

from contextlib import AbstractContextManager

import torch

TORCH = ("cpu", "cuda", "xpu", "mps", "meta")  # kinds of devices that torch itself brings


def inference(device: torch.device) -> AbstractContextManager[None]:
    """torch's inference mode, or no more than no_grad: DirectML, for one, cannot make tensors of that mode."""
    return torch.inference_mode() if device.type in TORCH else torch.no_grad()

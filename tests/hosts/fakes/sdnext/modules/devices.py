import torch
from fake_events import happen

cpu = torch.device("cpu")
backend = "cpu"
device = cpu
dtype = torch.bfloat16
dtype_vae = torch.bfloat16


def get_optimal_device():
    return cpu


def torch_gc(force: bool = False, fast: bool = False, reason: str | None = None):
    """Does nothing below a threshold, unless told to."""
    if force:
        happen("collect")

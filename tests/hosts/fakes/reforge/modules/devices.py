import torch
from ldm_patched.modules import model_management as manager

cpu = torch.device("cpu")
device = manager.get_torch_device()
dtype = torch.float32
dtype_vae = torch.float32


def get_optimal_device():
    return manager.get_torch_device()


def get_device_for(task):
    return manager.get_torch_device()


def torch_gc():
    manager.soft_empty_cache()

import torch
from fake_events import happen
from modules import shared

cpu = torch.device("cpu")
device = torch.device("cuda")  # set when the host starts
dtype = torch.float16
dtype_vae = torch.float16


def get_optimal_device():
    return torch.device("cuda")


def get_device_for(task):
    return cpu if {task, "all"} & set(shared.cmd_opts.use_cpu) else get_optimal_device()


def torch_gc():
    happen("collect")

"""Forge, reForge and others that manage the device's memory themselves."""

from contextlib import ExitStack
from types import ModuleType

import torch

from t2v.hosts import Memory
from t2v.hosts.standalone import collect
from t2v.hosts.webui import WebuiHost, cautious

RESERVE = 512 * 2**20  # beside what a job says it needs: workspaces, fragments


class ManagedHost(WebuiHost):
    """A web UI with a memory manager, which brings back by itself what it has unloaded."""

    name = "Forge"

    def __init__(self, manager: ModuleType) -> None:
        self.manager = manager

    @property
    def device(self) -> torch.device:
        return torch.device(self.manager.get_torch_device())

    @property
    def dtype(self) -> torch.dtype:
        """float16 where the manager would use it, then bfloat16, then float32."""
        device = self.device
        if device.type == "cpu":
            return torch.float32
        if self.manager.should_use_fp16(device):
            return torch.float16
        return torch.bfloat16 if self.manager.should_use_bf16(device) else torch.float32

    @property
    def memory(self) -> Memory | None:
        """The manager's own account, which counts what torch holds and does not use as free."""
        device = self.device
        if device.type == "cpu":
            return super().memory
        return Memory(int(self.manager.get_free_memory(device)), int(self.manager.get_total_memory(device)))

    def make_room(self, need: int | None, after: ExitStack) -> None:
        """Nothing to undo: `shared.sd_model` and its like come back when they are next used."""
        if need is None:
            self.manager.unload_all_models()
        else:
            self.manager.free_memory(need + RESERVE, self.device)
        after.callback(cautious(self.collect))

    def collect(self) -> None:
        collect(self.device)
        self.manager.soft_empty_cache()

    def reclaim(self, need: int) -> None:
        """Others may have asked the manager for their models meanwhile."""
        self.manager.free_memory(need + RESERVE, self.device)
        self.collect()

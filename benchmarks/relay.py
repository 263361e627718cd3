"""Functions that run side by side, piece by piece, so that whatever disturbs the machine disturbs them all alike."""

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from torch import nn

Result = TypeVar("Result")

# The layers of a UNet's stages in the published names, which modelscope shares, and in those of diffusers.
LAYER = re.compile(r"(input_blocks|output_blocks)\.\d+(\.\d+)?|middle_block\.\d+"
                   r"|(down|up)_blocks\.\d+\.\w+\.\d+|mid_block\.\w+\.\d+")


class Relay:
    """Runs functions in a thread each, of which only the one with the baton computes, and charges it for the time.

    A function passes the baton on after every piece of its work. `lengths` says how many pieces each has: next is
    whoever has done the smallest part of its own.
    """

    def __init__(self, lengths: Mapping[str, int]) -> None:
        self.lengths = lengths
        self.seconds = dict.fromkeys(lengths, 0.0)  # of the processor, by name
        self.done = dict.fromkeys(lengths, 0)  # pieces, of those that still run
        self.turn = threading.Condition()
        self.holder, self.since = "", 0.0

    def run(self, functions: Mapping[str, Callable[[], Result]]) -> dict[str, Result]:
        """What the functions, one for each of `lengths`, return; or the first error, once all have ended."""
        with ThreadPoolExecutor(len(functions)) as pool:
            running = {name: pool.submit(self.runs, name, function) for name, function in functions.items()}
            with self.turn:
                self.hand_on()
            return {name: future.result() for name, future in running.items()}

    def passes(self, name: str) -> None:
        """Called by `name`, which has the baton, after a piece; returns when it has it again."""
        with self.turn:
            self.charge(name)
            self.done[name] += 1
            self.hand_on()
            self.turn.wait_for(lambda: self.holder == name)

    def runs(self, name: str, function: Callable[[], Result]) -> Result:
        with self.turn:
            self.turn.wait_for(lambda: self.holder == name)
        try:
            return function()
        finally:
            with self.turn:
                self.charge(name)
                del self.done[name]
                self.hand_on()

    def charge(self, name: str) -> None:
        self.seconds[name] += time.process_time() - self.since

    def hand_on(self) -> None:
        if self.done:
            self.holder = min(self.done, key=lambda name: self.done[name] / max(1, self.lengths[name]))
            self.turn.notify_all()
            self.since = time.process_time()


@contextmanager
def after_layers(net: nn.Module, call: Callable[[], None]) -> Iterator[None]:
    """Calls `call` after each layer of a UNet for the time of a `with` block."""
    layers = [module for name, module in net.named_modules() if LAYER.fullmatch(name)]
    hooks = [layer.register_forward_hook(lambda *_: call()) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()

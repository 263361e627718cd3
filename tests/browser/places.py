"""Where the tab is: our own server, started for the occasion, or a web UI that runs already.

The tests are the same for both. What a person has to do differently in a web UI, open the tab among the others, and
what its own pages are known to complain about, is here.
"""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

from playwright.sync_api import Locator, Page

READY = 180.0  # seconds that a server may take to start
DIRECT = build_opener(ProxyHandler({}))  # the server is on this machine, whatever proxy there may be


# What web UIs complain about by themselves, and where that was seen.
WEB_UI_NOISE = re.compile("|".join([
    r"(ERR_CONNECTION_REFUSED|404).*/internal/ping",  # A1111, Forge, reForge: Reload UI asks whether it is done
    r"Server stopped unexpectedly",  # Forge, when Reload UI closes the server
    r"Element is not in the DOM",  # Forge, when its Settings are opened
]))

MODERN = "button.xtabs-tab[tabitemid*=tab_text2video_tabitem]"  # our tab in SD.Next's own look, which hides gradio's


@dataclass(frozen=True)
class Place:
    """A server of the tab; `models` is the folder where it looks for them, where that is ours to write to."""

    url: str
    models: Path | None = None
    noise: re.Pattern[str] | None = None  # errors of others

    @property
    def hosted(self) -> bool:
        """Whether the tab is one of many, in a web UI."""
        return self.models is None

    def expects(self, complaint: str) -> bool:
        return self.noise is not None and self.noise.search(complaint) is not None

    def tabs(self, page: Page) -> Locator:
        """The buttons that open our tab; in a web UI there has to be one, alone there are none."""
        return page.locator("#tabs > .tab-nav button").filter(has_text=re.compile(r"^\s*Text2Video\s*$"))

    def enter(self, page: Page) -> None:
        """Opens the tab, if it is one of many."""
        if self.hosted:
            self.tabs(page).or_(page.locator(MODERN)).locator("visible=true").first.click()


@contextmanager
def standalone(folder: Path) -> Iterator[Place]:
    """`t2v serve` on a free port, with the demo model and all its folders in `folder`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    models, log = folder / "models", folder / "server.log"
    command = [sys.executable, "-m", "t2v", "serve", "--port", str(port), "--models-dir", str(models),
               "--output", str(folder / "films")]
    # One thread: browser and server share the machine, and the demo's networks are too small to gain from more.
    with log.open("wb") as out, subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"}) as server:
        try:
            place = Place(f"http://127.0.0.1:{port}/", models)
            await_answer(place.url, server, log)
            yield place
        finally:
            server.terminate()


def await_answer(url: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    """Waits until there is a page at `url`; AssertionError with what the server said if none comes."""
    end = time.monotonic() + READY
    while server.poll() is None and time.monotonic() < end:
        if answers(url):
            return
        time.sleep(0.1)
    raise AssertionError(f"no page at {url}; the server said:\n{log.read_text(errors='replace')}")


def answers(url: str) -> bool:
    """Whether there is a page at `url` now."""
    try:
        with DIRECT.open(url, timeout=10) as answer:
            return bool(answer.status == 200)
    except OSError:  # nobody listens yet, or not to us
        return False

"""What differs between the versions of gradio that web UIs are on: 3.41 and 3.43, 4.40, and the newest."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr

MAJOR = int(gr.__version__.split(".")[0])


def listen(event: Callable[..., Any], handler: Callable[..., Any] | None, inputs: Sequence[Any],
           outputs: Sequence[Any], *, js: str = "", latest: bool = False, slow: bool = False) -> Any:
    """Calls `handler` on an event of a component; `js` runs before, in the browser.

    With `latest`, of events that come faster than they are answered only the last counts. What is `slow` is seen to be
    under way. Never through gradio's queue: in gradio 3 a page that is closed while it is told something leaves a
    connection there that never ends, and a web UI that waits for it when its UI is to be reloaded.
    """
    options: dict[str, Any] = {"queue": False, "show_progress": "full" if slow else "hidden"}
    if js:
        options["js" if MAJOR >= 4 else "_js"] = js
    if MAJOR >= 4 and latest:
        options["trigger_mode"] = "always_last"
    options |= {"api_visibility": "private"} if MAJOR >= 6 else {"api_name": False}
    return event(handler, list(inputs), list(outputs), **options)


def file_url(path: Path) -> str:
    """Where the browser finds a file of this machine, relative to the page, which may be below another address."""
    return ("gradio_api/file=" if MAJOR >= 5 else "file=") + quote(path.as_posix(), safe="/:")


def choices(words: Mapping[str, str]) -> list[Any]:
    """Choices under their words, or where gradio cannot do that, by their keys."""
    return [(word, key) for key, word in words.items()] if MAJOR >= 4 else list(words)

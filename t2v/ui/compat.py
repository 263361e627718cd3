"""What differs between the versions of gradio that web UIs are on: 3.41 and 3.43, 4.40, and the newest."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr

MAJOR = int(gr.__version__.split(".")[0])
log = logging.getLogger(__name__)
UNREADABLE = object()  # an upload that is no picture


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


def by_path(image: Any) -> Any:
    """`image`, whose uploads come as paths of their files; as UNREADABLE where gradio 3 cannot make a file of them.

    Since gradio 4 what was uploaded is a file already. To save it once more, as gradio would, loses its quality, and
    fails in Forge, which puts a function of its own there that takes other arguments. Only this one component is
    changed, because gradio 4 writes a file beside the source of every class that is derived from its own.
    """
    read = image.preprocess

    def preprocess(upload: Any) -> Any:
        if hasattr(upload, "path"):
            return upload.path
        try:
            return read(upload)
        except Exception:  # whatever Pillow, or gradio around it, makes of bytes that are no picture
            log.info("Text2Video: an upload that is no picture", exc_info=True)
            return UNREADABLE

    image.preprocess = preprocess
    return image


def choices(words: Mapping[str, str]) -> list[Any]:
    """Choices under their words, or where gradio cannot do that, by their keys."""
    return [(word, key) for key, word in words.items()] if MAJOR >= 4 else list(words)

"""Everything that is shown as HTML. Whatever comes from outside goes through `text`, and through nothing else.

The names of classes and data attributes are known to style.css and text2video.js.
"""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

SLOT = '<div class="t2v-slot">{}</div>'  # filled here and by the script


@dataclass(frozen=True)
class Exhibit:
    """A film as the page shows it. `kind`: video, image, or folder, whose `url` is that of its first picture."""

    key: str  # names the film to the handlers
    name: str
    url: str
    kind: str
    infotext: str
    place: str = ""  # where it is on the machine, if that may be shown

    @property
    def file(self) -> str:
        """The name of what is behind `url`, for whoever keeps it."""
        return unquote(self.url.rpartition("/")[2])

    @property
    def note(self) -> str:
        """What has to be said beside that name."""
        return f" is the first picture of the folder {self.place or self.name}" if self.kind == "folder" else ""

    @property
    def words(self) -> str:
        """What can be said for it to somebody who does not see it: the first line of its prompt."""
        return self.infotext.split("\n")[0] or self.name


def text(value: object) -> str:
    """`value` as text that means nothing to a browser, between tags and in attributes."""
    return html.escape(str(value), quote=True)


def message(words: str, kind: str = "error") -> str:
    """Something to tell; nothing where there are no words. `kind`: error or note."""
    return f'<div class="t2v-message" role="alert" data-kind="{text(kind)}">{text(words)}</div>' if words else ""


def progress(state: str, words: str, fraction: float, eta: float | None = None, look: int = 0) -> str:
    """The bar. `state` tells the script which buttons to show: queued, running and stopping mean work, and that it
    should look again; `look` is another number each time, for the script to see that it was answered."""
    percent = round(100 * min(max(fraction, 0.0), 1.0))
    busy = state in ("queued", "running", "stopping")
    left = f", {duration(eta)} left" if eta is not None and busy else ""
    share = f"{percent} %{left}" if busy and state != "queued" else ""
    return (
        f'<div class="t2v-progress" data-state="{text(state)}" data-look="{look}">'
        f'<div class="t2v-bar" role="progressbar" aria-label="Progress" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{percent}"><div style="width: {percent}%"></div></div>'
        f'<div class="t2v-status"><span>{text(words)}</span><span>{share}</span></div></div>')


def duration(seconds: float) -> str:
    """A time as people say it: 8 s, 1:05 min, 2:00 h."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60}:{whole % 60:02d} min" if whole < 3600 else f"{whole // 3600}:{whole // 60 % 60:02d} h"


def preview(animation: bytes) -> str:
    """What the film looks like by now."""
    if not animation:
        return ""
    data = base64.b64encode(animation).decode()
    return f'<img class="t2v-preview" alt="The film so far" src="data:image/webp;base64,{data}">'


def player(film: Exhibit | None) -> str:
    """A film to watch and to keep, or room for one. The script puts the same there for a film of the strip."""
    if film is None:
        return SLOT.format("")
    url, words, file = text(film.url), text(film.words), text(film.file)
    picture = (f'<video src="{url}" aria-label="{words}" controls loop autoplay playsinline></video>'
               if film.kind == "video" else f'<img src="{url}" alt="{words}">')
    return SLOT.format(
        f'<figure class="t2v-player" data-film="{text(film.key)}">{picture}'
        f'<figcaption><a href="{url}" download="{file}">⬇ {file}</a>{text(film.note)}</figcaption></figure>')


def infotext(words: str) -> str:
    """The settings of a film, or room for them."""
    return SLOT.format(f'<pre class="t2v-infotext">{text(words)}</pre>' if words else "")


def films(shown: Sequence[Exhibit]) -> str:
    """A strip of films; a click on one brings it to the player.

    What the player needs stands in attributes, since the newest gradio patches a page's elements one by one, and
    overlooks what is in templates.
    """
    if not shown:
        return '<div class="t2v-films" data-ready></div>'
    return '<ul class="t2v-films" data-ready aria-label="Films">' + "".join(map(_thumbnail, shown)) + "</ul>"


def _thumbnail(film: Exhibit) -> str:
    url, words = text(film.url), text(film.words)
    picture = (f'<video src="{url}#t=0.01" preload="metadata" muted playsinline tabindex="-1" aria-hidden="true">'
               "</video>" if film.kind == "video" else f'<img src="{url}" alt="" loading="lazy">')
    return (f'<li><button type="button" class="t2v-film" title="{words}" aria-label="{words}" '
            f'data-film="{text(film.key)}" data-kind="{text(film.kind)}" data-url="{url}" '
            f'data-file="{text(film.file)}" data-note="{text(film.note)}" data-infotext="{text(film.infotext)}">'
            f"{picture}</button></li>")


def card(name: str, facts: Mapping[str, Any], problem: str = "", hint: str = "") -> str:
    """What a model is: what its makers say, and what it was made for; or what is wrong with it."""
    if problem:
        return f'<div class="t2v-card" data-kind="error">{text(problem)}</div>'
    made = [f"{facts['width']}x{facts['height']}"] if facts.get("width") and facts.get("height") else []
    made += [f"{facts['frames']} frames"] if facts.get("frames") else []
    made += [f"{facts['fps']:g} FPS"] if facts.get("fps") else []
    said = [str(facts.get("card") or ""), f"Made for {', '.join(made)}." if made else "", *facts.get("notes", ())]
    size = facts.get("size", 0)
    large = f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB" if size else ""
    known = ", ".join(filter(None, [facts.get("kind"), facts.get("precision"), large, facts.get("hash")]))
    return (f'<div class="t2v-card">{text(" ".join(filter(None, said)) or name)}'
            f'{f"<p>{text(known)}</p>" if known else ""}{f"<p>{text(hint)}</p>" if hint else ""}</div>')


def tokens(count: int, limit: int) -> str:
    """How long a prompt is."""
    return f'<span class="t2v-tokens" title="tokens of the prompt">{count}/{limit}</span>'


def page(words: str) -> str:
    """A report, line by line."""
    return f'<pre class="t2v-infotext">{text(words)}</pre>'


def note(words: str) -> str:
    """Something said in passing."""
    return f'<div class="t2v-need">{text(words)}</div>'


def length(frames: float | None, fps: float | None) -> str:
    """How long a film of so many frames plays."""
    return f'<span class="t2v-length">{frames / fps:.1f} s</span>' if frames and fps and fps > 0 else ""


def need(words: str, fits: bool = True) -> str:
    """What a film of these settings asks of the machine."""
    return f'<div class="t2v-need" data-kind="{"note" if fits else "error"}">{text(words)}</div>' if words else ""


def hints(of: Mapping[str, str]) -> str:
    """Descriptions by the id of what they describe, for the script to make tooltips of."""
    return f'<template class="t2v-hints" data-hints="{text(json.dumps(dict(of)))}"></template>'

"""A request as text, in the manner of the web UIs, and back.

    a red circle
    Negative prompt: text, watermark
    Steps: 30, Sampler: ddim, CFG scale: 9, Seed: 7, Model: demo, Size: 64x64, Frames: 16, FPS: 8, ...

This is what every film carries, what "read settings" reads, and what can be pasted into a web UI. The first lines
are the prompts as they were typed; the last line holds every other setting under the label of its field. A value
that would blur the line (a comma, a colon, a quote, a line break) stands in JSON quotes there.

The prompts are free text, so they can imitate the rest ("Negative prompt:" at the start of a line). `infotext` reads
its own work, and where a prompt does not come back as it was, repeats it in the last line in JSON quotes. Web UIs,
like `parse_infotext`, let that copy win.
"""

import json
import re
from dataclasses import Field, fields
from typing import Any

from t2v import __version__
from t2v.request import VideoRequest

Value = str | int | float

NEGATIVE = "Negative prompt:"
LEADING = ("steps", "sampler", "cfg_scale", "seed")  # what readers of infotexts expect first; the rest follows
ALIASES = {"scale": "cfg_scale"}  # as in the films of the sd-webui-text2video extension
# The key is bounded so that a long text without any colon is searched in linear time.
PAIR = re.compile(r'\s*(\w[\w \-/]{0,60}):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')
PLAIN = re.compile(r'[^\s,:"\x00-\x1f\ud800-\udfff]+(?: [^\s,:"\x00-\x1f\ud800-\udfff]+)*')
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")  # no file format keeps these: C strings end at NUL, UTF-8 has no halves


def infotext(request: VideoRequest, **extras: Value) -> str:
    """`request` as text; `extras` are further facts for the last line (model_hash="ab12" gives "Model hash: ab12").

    `request_from` gives back an equal request, whatever the prompts contain.
    """
    settings = {**_settings(request), **{_label(name): value for name, value in extras.items()}}
    settings["Version"] = f"t2v {__version__}"
    misread = parse_infotext(_text(request, settings))
    exact: dict[str, Value] = {
        label: prompt for label, prompt in _prompts(request).items() if misread[label] != prompt}
    return _text(request, settings | exact)


def parse_infotext(text: str) -> dict[str, str]:
    """Label -> value of an infotext, ours or another web UI's; always with "Prompt" and "Negative prompt".

    A text whose last line has fewer than three `key: value` pairs is all prompt.
    """
    lines = text.strip().split("\n")
    pairs = PAIR.findall(lines[-1])
    if len(pairs) >= 3:
        lines.pop()
    else:
        pairs = []
    starts = [i for i, line in enumerate(lines) if line.startswith(NEGATIVE)]
    split = starts[0] if starts else len(lines)
    negative = "\n".join(lines[split:]).removeprefix(NEGATIVE)
    return {"Prompt": "\n".join(lines[:split]).strip(), "Negative prompt": negative.strip(),
            **{key: _unquoted(value) for key, value in pairs}}


def request_from(text: str) -> VideoRequest:
    """The request that `text` describes. Unknown keys are passed over; RequestError names a setting out of range."""
    found = {key.lower(): value for key, value in parse_infotext(text).items()}
    found |= {new: found[old] for old, new in ALIASES.items() if old in found}
    if size := re.fullmatch(r"(\d+)\s*x\s*(\d+)", found.get("size", "")):
        found |= {"width": size[1], "height": size[2]}
    named = {spec.name: found.get(_shown(spec).lower(), found.get(spec.name)) for spec in fields(VideoRequest)}
    return VideoRequest(**{name: value for name, value in named.items() if value is not None})  # type: ignore[arg-type]


def _settings(request: VideoRequest) -> dict[str, Value]:
    """Label -> value of everything that the request states but the prompts, in the order of the last line.

    Left out are empty texts, and extras that are as they always are.
    """
    sized = request.width is not None and request.height is not None
    elsewhere = {"prompt", "negative_prompt"} | ({"width", "height"} if sized else set())
    stated = {spec.name: (_shown(spec), value) for spec in fields(request)
              if (value := getattr(request, spec.name)) is not None
              and not (value == spec.default and (value == "" or spec.metadata.get("extra")))
              and spec.name not in elsewhere}
    leading = [stated.pop(name) for name in LEADING if name in stated]
    size = [("Size", f"{request.width}x{request.height}")] if sized else []
    return dict([*leading, *size, *stated.values()])


def _prompts(request: VideoRequest) -> dict[str, str]:
    return {"Prompt": request.prompt, "Negative prompt": request.negative_prompt}


def _text(request: VideoRequest, settings: dict[str, Value]) -> str:
    negative = f"{NEGATIVE} {request.negative_prompt}" if request.negative_prompt else ""
    prompts = [UNSTORABLE.sub("\ufffd", part) for part in (request.prompt, negative) if part]
    return "\n".join([*prompts, ", ".join(f"{label}: {_quoted(value)}" for label, value in settings.items())])


def _shown(spec: "Field[Any]") -> str:
    return str(spec.metadata["label"])


def _label(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _quoted(value: Value) -> str:
    """`value` as it stands in the last line: 9.0 as 9, plain words as they are, all else in JSON quotes."""
    text = repr(value).removesuffix(".0") if isinstance(value, float) else str(value)
    if PLAIN.fullmatch(text):
        return text
    return json.dumps(text, ensure_ascii=bool(UNSTORABLE.search(text)))


def _unquoted(value: str) -> str:
    """What `_quoted` wrote; a value that only looks quoted is taken as it stands."""
    value = value.strip()
    if not value.startswith('"'):
        return value
    try:
        return str(json.loads(value))
    except ValueError:
        return value

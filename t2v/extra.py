"""What a request wants beside its model, in words: `<lora:name:weight>` in a prompt, "name:weight, …" in a field.

    <lora:style>                weight 1
    <lora:style:0.8>            weights may be negative, and greater than 1
    <lora:style:0.8:0.5>        0.8 for the text tower, 0.5 for the UNet; also as te=0.8, unet=0.5
    <lora:style:0@0,1@0.5>      0 at the start, 1 from half of the steps on, linear between

The text tower reads a prompt once, before the first step; of weights that change it takes the one farthest from 0.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

from t2v.errors import RequestError
from t2v.request import shown

TAG = re.compile(r"<lora:([^<>]*)>")
NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)"
POINT = re.compile(rf"\s*({NUMBER})\s*(?:@\s*({NUMBER})\s*)?")
MORE = re.compile(rf"\s*{NUMBER}\s*@\s*{NUMBER}\s*")
MAX_WEIGHT = 100.0


class Point(NamedTuple):
    """From this part of the steps on, 0 to 1, a weight."""

    at: float
    weight: float


@dataclass(frozen=True)
class Strength:
    """A weight over the steps: linear between its points, constant before the first and after the last."""

    points: tuple[Point, ...] = (Point(0.0, 1.0),)

    def at(self, part: float) -> float:
        """The weight when `part` of the steps, 0 to 1, are done."""
        before = [point for point in self.points if point.at <= part]
        after = [point for point in self.points if point.at > part]
        if not before or not after:
            return (before[-1] if before else after[0]).weight
        low, high = before[-1], after[0]
        return low.weight + (high.weight - low.weight) * (part - low.at) / (high.at - low.at)

    @classmethod
    def constant(cls, weight: float) -> "Strength":
        """The same weight at every step."""
        return cls((Point(0.0, weight),))

    @property
    def peak(self) -> float:
        """The weight farthest from 0."""
        return max((point.weight for point in self.points), key=abs)


class Wish(NamedTuple):
    """A LoRA by name, and how much of it."""

    name: str
    text: Strength = Strength()
    unet: Strength = Strength()


def taken_out(prompt: str) -> tuple[str, list[Wish]]:
    """`prompt` without its tags, and what they wish for. RequestError for a tag that makes no sense."""
    return TAG.sub("", prompt), [wish(match[1], "prompt") for match in TAG.finditer(prompt)]


def listed(text: str) -> list[Wish]:
    """The wishes of "style:0.8, motion:1.2"; tags may stand there too. RequestError for nonsense."""
    rest, wishes = TAG.sub(",", text), [wish(match[1], "loras") for match in TAG.finditer(text)]
    items: list[str] = []
    for item in re.split(r"[,;\n]", rest):
        if MORE.fullmatch(item) and items:  # the comma was one between two points of a weight
            items[-1] += "," + item
        elif item.strip():
            items.append(item)
    return wishes + [wish(item, "loras") for item in items]


def wish(words: str, field: str) -> Wish:
    """What stands between `<lora:` and `>`."""
    name, *arguments = (word.strip() for word in words.split(":"))
    named = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    plain = [argument for argument in arguments if "=" not in argument]
    if not name or len(plain) > 2 or named.keys() - {"te", "unet"}:
        raise RequestError(field, f"cannot make sense of the LoRA {shown(words)}; write <lora:name:weight>")
    text = named.get("te", plain[0] if plain else "1")
    unet = named.get("unet", plain[1] if len(plain) > 1 else text)
    return Wish(name, strength(text, field), strength(unet, field))


def strength(text: str, field: str) -> Strength:
    """The strength that "0.8" or "0@0,1@0.5" spells."""
    matches = [POINT.fullmatch(part) for part in text.split(",")]
    points = [Point(float(match[2] or 0), float(match[1])) for match in matches if match]
    timed = all(match and match[2] for match in matches)
    sane = all(0 <= point.at <= 1 and abs(point.weight) <= MAX_WEIGHT for point in points)
    if len(points) < len(matches) or (len(points) > 1 and not timed) or not sane:
        raise RequestError(field, f"{shown(text)} is no weight of a LoRA; write a number from -{MAX_WEIGHT:g} to "
                                  f"{MAX_WEIGHT:g}, or weight@part points such as 0@0,1@0.5")
    return Strength(tuple(sorted(points, key=lambda point: point.at)))

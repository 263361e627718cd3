"""The key frames of the sd-webui-text2video extension, `0:(t/max_i_f), "max_i_f":(1)`, as weights in plain numbers.

Keys and values are expressions in t, the frame; max_i_f and max_f, the last frame of the picture and of the film; and
s, the seed. Numbers are joined by straight lines, an expression holds until the next key. They are worked out here,
from their syntax tree and with arithmetic alone: text that came over the net is not run.
"""

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from t2v.errors import RequestError
from t2v.request import shown

KEY = re.compile(r'\s*,?\s*("[^"]*"|[^":]+?)\s*:\s*\(')
MAX_LENGTH = 2000  # characters
OPERATORS: dict[type[ast.AST], Callable[..., float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.Mod: operator.mod, ast.Pow: math.pow, ast.USub: operator.neg, ast.UAdd: operator.pos,
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Eq: operator.eq}
FUNCTIONS: dict[str, Callable[..., float]] = {
    "sin": math.sin, "cos": math.cos, "tan": math.tan, "sqrt": math.sqrt, "exp": math.exp, "abs": abs, "log": math.log,
    "floor": math.floor, "ceil": math.ceil, "minimum": min, "maximum": max,
    "where": lambda test, yes, no: yes if test else no}
MISTAKES = (ArithmeticError, ValueError, TypeError, KeyError, SyntaxError, RecursionError, MemoryError)


def weights(text: str, held: int, frames: int, seed: int) -> str:
    """A weight for each frame of a picture that is held for so many, as in 0:(0), 1:(0.5). RequestError."""
    known = {"max_i_f": float(held - 1), "max_f": float(frames - 1), "s": float(seed)}
    keys: dict[int, str] = {}
    for key, written in pairs(text):
        keys.setdefault(round(value(key, known)), written)  # with a single frame, both keys of the usual text are 0
    if not keys:
        raise RequestError("", f"there are no key frames in {shown(text)}; write them as in 0:(0), 10:(1)")
    found = [at(frame, keys, known) for frame in range(min(held, frames))]
    return ", ".join(f"{frame}:({min(max(weight, 0.0), 1.0):.4g})" for frame, weight in enumerate(found))


def pairs(text: str) -> list[tuple[str, str]]:
    """Keys and values as they are written; parentheses in a value are counted."""
    found, place = [], 0
    while match := KEY.match(text, place):
        start = place = match.end()
        depth = 1
        while depth and place < len(text):
            depth += {"(": 1, ")": -1}.get(text[place], 0)
            place += 1
        found.append((match[1].strip('"'), text[start:place - 1]))
    if text[place:].strip(" ,") or len(text) > MAX_LENGTH:
        raise RequestError("", f"cannot make sense of {shown(text)}; write key frames as in 0:(0), 10:(1)")
    return found


def at(frame: int, keys: Mapping[int, str], known: Mapping[str, float]) -> float:
    """The weight of a frame."""
    before = max((key for key in keys if key <= frame), default=min(keys))
    after = min((key for key in keys if key > frame), default=before)
    first, last = plain(keys[before]), plain(keys[after])
    if first is not None and last is not None and after > before:
        return first + (last - first) * max(frame - before, 0) / (after - before)
    return value(keys[before], {**known, "t": float(frame)})


def plain(text: str) -> float | None:
    """The number that stands there; None where it is an expression."""
    try:
        return float(text)
    except ValueError:
        return None


def value(text: str, known: Mapping[str, float]) -> float:
    """What an expression comes to. A division by 0, as in t/max_i_f of a single frame, is 0."""
    try:
        found = float(worked_out(ast.parse(text.strip(), mode="eval").body, known))
    except ZeroDivisionError:
        return 0.0
    except MISTAKES as error:
        raise RequestError("", f"cannot make sense of {shown(text)}") from error
    if not math.isfinite(found):
        raise RequestError("", f"{shown(text)} is no finite number")
    return found


def worked_out(node: Any, known: Mapping[str, float]) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return float(node.value)
    if isinstance(node, ast.Name):
        return known[node.id]
    if isinstance(node, ast.BinOp):
        return OPERATORS[type(node.op)](worked_out(node.left, known), worked_out(node.right, known))
    if isinstance(node, ast.UnaryOp):
        return OPERATORS[type(node.op)](worked_out(node.operand, known))
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        return OPERATORS[type(node.ops[0])](worked_out(node.left, known), worked_out(node.comparators[0], known))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        return FUNCTIONS[node.func.id](*(worked_out(argument, known) for argument in node.args))
    raise TypeError(node)

"""Numbers over the frames of a film, as key frames: `0:(0), 8:(1)`.

    0:(0), 8:(1)                            0 at frame 0, 1 at frame 8, linear between them
    0:(t/max_i_f), "max_i_f":(1)            an expression says what it says at each frame, up to the next key
    0:(where(t < 3, 0, 0.5 + sin(t)/2))     t is the frame, max_f the last one, s the seed
    0.5                                     the same at every frame

Before the first key and after the last their values hold, keys outside of the film do not count, and of two keys for
one frame the later counts: all as in the text2video extension before us, and in Deforum, where these strings come from.
So are max_i_f, the last of the frames that a picture is held for, and the names of functions, which are numexpr's.
A tree of operations is built from the text and worked out over arrays of doubles; nothing else is ever evaluated.
"""

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from functools import reduce
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from t2v.errors import RequestError

Array = NDArray[Any]  # float64 or bool, of one number or one for each frame

MAX_TEXT, MAX_EXPRESSION, MAX_DEPTH = 10_000, 500, 60
ZERO: Array = np.array(0.0)

KEY = re.compile(r"""\s*(?P<quote>["']?)(?P<key>[^"':]*)(?P=quote)\s*:(?P<value>.*)""", re.DOTALL)
TOKEN = re.compile(
    r"\s+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.])|[A-Za-z_]\w*|\*\*|[<>=!]=|[-+*/%()<>&|^~,]", re.ASCII)


class Fault(Exception):
    """Something is wrong at a place of the text, counted from 0."""

    def __init__(self, place: int, problem: str) -> None:
        self.place, self.problem = place, problem
        super().__init__(problem)


def curve(
    text: str, frames: int, *, seed: int = 0, held: int | None = None, field: str = "picture_weights"
) -> list[float]:
    """The value of every frame of a film. `held`: how many frames `max_i_f` + 1 stands for, all unless told.

    RequestError, pointing at the place, where `text` makes no sense.
    """
    if len(text) > MAX_TEXT:
        raise RequestError(field, f"is {len(text)} characters long; {MAX_TEXT} are as many as are read")
    names = {"max_f": frames - 1, "max_i_f": (held or frames) - 1, "s": seed}
    try:
        keys = dict(keyed(text, {name: np.array(float(value)) for name, value in names.items()}))
        return values(keys, frames).tolist()
    except Fault as fault:
        raise RequestError(field, f"{fault.problem}, at character {fault.place + 1}, "
                                  f"near {text[fault.place : fault.place + 20]!r}") from None


def values(keys: Mapping[int, "Expression"], frames: int) -> NDArray[np.float64]:
    """The number of each frame: as the keys say where they do, linear from one to the next elsewhere."""
    inside = [*sorted(frame for frame in keys if 0 <= frame < frames), frames]
    if len(inside) == 1:
        raise Fault(0, f"no key lies within the {frames} frames of the film")
    result = np.full(frames, np.nan)
    for frame, following in pairwise(inside):
        expression = keys[frame]
        shown = np.arange(frame, frame + 1 if expression.is_number else following, dtype=np.float64)
        said = np.broadcast_to(expression.at(shown).astype(np.float64), shown.shape)
        if not np.isfinite(said).all():
            raise Fault(expression.place, f"this is no number at frame {frame + int(np.isfinite(said).argmin())}")
        result[frame : frame + len(shown)] = said
    known = np.flatnonzero(~np.isnan(result))
    return np.interp(np.arange(frames), known, result[known])


# ---- text -> keys ----


def keyed(text: str, names: Mapping[str, Array]) -> Iterator[tuple[int, "Expression"]]:
    """The frame and the expression of each key, in the order of the text."""
    pieces = [(start, piece) for start, piece in split(text) if piece.strip()]
    if len(pieces) == 1 and ":" not in text:
        yield 0, Expression.read(*pieces[0], {**names, "t": ZERO})
        return
    if not pieces:
        raise Fault(0, "there are no key frames; write them as in 0:(0), 8:(1)")
    for start, piece in pieces:
        match = KEY.fullmatch(piece)
        if not match:
            raise Fault(start, "this is no key frame; write frame:(value)")
        key = Expression.read(start + match.start("key"), match["key"], names)
        frame = float(key.at(ZERO))
        if not np.isfinite(frame):
            raise Fault(key.place, "this is no frame")
        yield int(frame), Expression.read(start + match.start("value"), match["value"], {**names, "t": ZERO})


def split(text: str) -> Iterator[tuple[int, str]]:
    """The pieces between commas that stand in no brackets, and where they start."""
    opened: list[int] = []
    start = 0
    for match in re.finditer(r"[(),]", text):
        place = match.start()
        if match[0] == "(":
            opened.append(place)
        elif match[0] == ")" and not opened:
            raise Fault(place, "this bracket closes none")
        elif match[0] == ")":
            opened.pop()
        elif not opened:
            yield start, text[start:place]
            start = place + 1
    if opened:
        raise Fault(opened[-1], "this bracket is not closed")
    yield start, text[start:]


# ---- expressions ----


class Expression(NamedTuple):
    """A formula that has been read: where it stands, its tree, and what its names mean."""

    place: int
    tree: ast.expr
    names: Mapping[str, Array]

    @classmethod
    def read(cls, place: int, text: str, names: Mapping[str, Array]) -> "Expression":
        """The formula `text`, which stands at `place`; worked out once, so that every fault in it is found now."""
        if len(text) > MAX_EXPRESSION:
            raise Fault(place, f"this is longer than the {MAX_EXPRESSION} characters that a formula may have")
        if not text.strip():
            raise Fault(place, "something is missing")
        reached = 0
        while reached < len(text):
            token = TOKEN.match(text, reached)
            if not token:
                raise Fault(place + reached, "this has no place in a formula")
            reached = token.end()
        try:
            tree = ast.parse(f"({text})", mode="eval").body
        except SyntaxError as error:
            column = max(0, min((error.offset or 2) - 2, len(text) - 1))
            raise Fault(place + column, "cannot make sense of this") from None
        formula = cls(place, tree, names)
        with np.errstate(all="ignore"):
            formula.worked_out(tree, names, 0)
        return formula

    @property
    def is_number(self) -> bool:
        """Whether it is a plain number, with or without a sign."""
        if isinstance(self.tree, ast.UnaryOp) and isinstance(self.tree.op, ast.USub | ast.UAdd):
            return isinstance(self.tree.operand, ast.Constant)
        return isinstance(self.tree, ast.Constant)

    def at(self, t: Array) -> Array:
        """What it comes to at the frames `t`."""
        names = {**self.names, "t": t} if "t" in self.names else self.names
        with np.errstate(all="ignore"):
            return self.worked_out(self.tree, names, 0)

    def worked_out(self, node: ast.expr, names: Mapping[str, Array], depth: int) -> Array:
        """What a part of the tree comes to."""
        if depth > MAX_DEPTH:
            raise self.fault(node, f"there are more than {MAX_DEPTH} operations in one another")
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            return np.array(float(node.value) if node.value < 1e308 else np.inf)  # type: ignore[operator, arg-type]
        if isinstance(node, ast.Name):
            if node.id not in names:
                raise self.fault(node, f"there is no {node.id}; there are {', '.join(names)}")
            return names[node.id]
        do, operands = self.operation(node)
        try:
            return do(*(self.worked_out(operand, names, depth + 1) for operand in operands))
        except ValueError as error:
            raise self.fault(node, str(error)) from None

    def operation(self, node: ast.expr) -> tuple[Callable[..., Array], list[ast.expr]]:
        """What a node of the tree does, and to what."""
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            return OPERATORS[type(node.op)], [node.left, node.right]
        if isinstance(node, ast.UnaryOp) and type(node.op) in OPERATORS:
            return OPERATORS[type(node.op)], [node.operand]
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in OPERATORS:
            return OPERATORS[type(node.ops[0])], [node.left, node.comparators[0]]
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.keywords:
            raise self.fault(node, "this is no arithmetic")
        if node.func.id not in FUNCTIONS:
            raise self.fault(node, f"there is no function {node.func.id}; there are {', '.join(FUNCTIONS)}")
        function, least, most = FUNCTIONS[node.func.id]
        if not least <= len(node.args) <= most:
            raise self.fault(node, f"{node.func.id} takes {least if least == most else f'{least} or more'} numbers")
        return function, node.args

    def fault(self, node: ast.expr, problem: str) -> Fault:
        return Fault(self.place + max(0, node.col_offset - 1), problem)


def arithmetic(function: Callable[..., Array]) -> Callable[..., Array]:
    """`function` of doubles; what is true counts as 1."""
    return lambda *operands: function(*(np.asarray(operand, dtype=np.float64) for operand in operands))


def bitwise(function: Callable[..., Array]) -> Callable[..., Array]:
    """`function` of truths, or of whole numbers bit by bit."""
    def bits(operand: Array) -> Array:
        if np.asarray(operand).dtype == bool:
            return operand
        if not (np.isfinite(operand) & (operand == np.rint(operand)) & (np.abs(operand) < 2**53)).all():
            raise ValueError("&, |, ^ and ~ take comparisons or whole numbers")
        return np.asarray(operand, dtype=np.int64)

    return lambda *operands: function(*map(bits, operands))


def where(condition: Array, yes: Array, no: Array) -> Array:
    return np.where(condition != 0, yes, no)


def smallest(*operands: Array) -> Array:
    return reduce(np.minimum, operands)


def largest(*operands: Array) -> Array:
    return reduce(np.maximum, operands)


OPERATORS: dict[type[ast.AST], Callable[..., Array]] = {
    ast.Add: arithmetic(np.add), ast.Sub: arithmetic(np.subtract), ast.Mult: arithmetic(np.multiply),
    ast.Div: arithmetic(np.divide), ast.FloorDiv: arithmetic(np.floor_divide), ast.Pow: arithmetic(np.power),
    ast.Mod: arithmetic(np.fmod),  # with the sign of what is divided, as in numexpr
    ast.USub: arithmetic(np.negative), ast.UAdd: arithmetic(np.positive),
    ast.Lt: arithmetic(np.less), ast.LtE: arithmetic(np.less_equal), ast.Gt: arithmetic(np.greater),
    ast.GtE: arithmetic(np.greater_equal), ast.Eq: arithmetic(np.equal), ast.NotEq: arithmetic(np.not_equal),
    ast.BitAnd: bitwise(np.bitwise_and), ast.BitOr: bitwise(np.bitwise_or), ast.BitXor: bitwise(np.bitwise_xor),
    ast.Invert: bitwise(np.invert),
}
# name -> what it does, of how many numbers at least, and at most
FUNCTIONS: dict[str, tuple[Callable[..., Array], int, int]] = {
    **{name: (arithmetic(getattr(np, name)), 1, 1) for name in (
        "sin", "cos", "tan", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "arcsinh", "arccosh", "arctanh",
        "sqrt", "exp", "expm1", "log", "log10", "log1p", "abs", "floor", "ceil")},
    "arctan2": (arithmetic(np.arctan2), 2, 2),
    "where": (where, 3, 3),
    "min": (arithmetic(smallest), 1, MAX_EXPRESSION),
    "max": (arithmetic(largest), 1, MAX_EXPRESSION),
}

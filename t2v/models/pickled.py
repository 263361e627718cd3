"""What a pickle says, without doing what it says.

A `.pth` file is raw numbers beside a pickle that names and shapes them. Unpickling imports and calls whatever
the pickle names; that is how weight files carry viruses, and why a checkpoint of PyTorch Lightning cannot be
opened where Lightning is not installed. So the pickle is not executed but read, opcode by opcode, with the
standard library's `pickletools`. The outcome is plain data: dictionaries, lists, numbers and text, and a note
(`Named`, `Made`, `Storage`) wherever the pickle asks for something else. There is nothing to forbid, because
nothing is imported or called; dictionary keys are text or numbers, so not even a hash can be made expensive.
"""

import pickletools
from typing import Any, BinaryIO, NamedTuple

MAX_OPCODES = 500_000  # a checkpoint of 2,000 tensors has 90,000; this many are read in about half a second


class Named(NamedTuple):
    """A class or function that the pickle names: inert."""

    name: str


class Made(NamedTuple):
    """An object that the pickle wants made, `what(*args)`, and then given the attributes `state`: inert."""

    what: Any
    args: Any
    state: Any = None


class Storage(NamedTuple):
    """A run of `numel` numbers that the file keeps under `key`."""

    kind: str
    key: str
    numel: int


def read_pickle(stream: BinaryIO) -> tuple[Any, dict[str, Storage]]:
    """The data of the pickle that starts here, and its storages by key; the stream then stands behind it.

    Raises ValueError where the pickle is broken, or says what no weight file says.
    """
    reader = _Reader()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count == MAX_OPCODES:
                raise ValueError("longer than any model's")
            reader.step(opcode.name, argument)
        return reader.stack.pop(), reader.storages
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError("its directory of tensors cannot be understood") from error


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_ARGUMENTS = frozenset((
    "BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "UNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINUNICODE", "STRING", "BINSTRING", "SHORT_BINSTRING",
    "BINBYTES", "BINBYTES8", "SHORT_BINBYTES", "BYTEARRAY8"))
_NOTHING = frozenset(("PROTO", "FRAME", "STOP"))
_ORDERED_DICT = Named("collections.OrderedDict")


class _Reader:
    """A pickle machine reduced to building dictionaries, lists and tuples."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def step(self, opcode: str, argument: Any) -> None:
        """One opcode; the stack holds values, `marks` the places where a MARK was set."""
        if opcode in _ARGUMENTS:
            self.stack.append(argument)
        elif opcode in _CONSTANTS:
            self.stack.append(_CONSTANTS[opcode])
        elif opcode not in _NOTHING:
            self._act(opcode, argument)

    def _act(self, opcode: str, argument: Any) -> None:
        stack = self.stack
        match opcode:
            case "MARK":
                self.marks.append(len(stack))
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                self.memo[argument] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(self.memo[argument])
            case "GLOBAL":
                stack.append(Named(argument.replace(" ", ".")))
            case "BINPERSID":
                stack.append(self._storage(stack.pop()))
            case "BUILD":
                state = stack.pop()
                if isinstance(stack[-1], Made):
                    stack[-1] = stack[-1]._replace(state=state)
            case "POP":
                stack.pop()
            case "POP_MARK":
                self._marked()
            case _:
                self._collect(opcode)

    def _collect(self, opcode: str) -> None:
        stack = self.stack
        match opcode:
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST" | "EMPTY_SET":
                stack.append([])
            case "TUPLE":
                stack.append(tuple(self._marked()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(opcode[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "LIST" | "FROZENSET":
                stack.append(self._marked())
            case "DICT":
                stack.append(_filled({}, self._marked()))
            case "APPEND" | "SETITEM":
                count = 1 if opcode == "APPEND" else 2
                items, stack[-count:] = stack[-count:], []
                _filled(stack[-1], items)
            case "APPENDS" | "ADDITEMS" | "SETITEMS":
                items = self._marked()
                _filled(stack[-1], items)
            case _:
                self._make(opcode)

    def _make(self, opcode: str) -> None:
        stack = self.stack
        match opcode:
            case "STACK_GLOBAL":
                module, name = stack[-2:]
                stack[-2:] = [Named(".".join((module, name)))]
            case "REDUCE" | "NEWOBJ":
                what, args = stack[-2:]
                stack[-2:] = [{} if what == _ORDERED_DICT and args == () else Made(what, args)]
            case "NEWOBJ_EX":
                what, args, _ = stack[-3:]
                stack[-3:] = [Made(what, args)]
            case _:
                raise ValueError(f"{opcode} has no place in a weight file")

    def _marked(self) -> list[Any]:
        """Takes everything above the last MARK off the stack."""
        start = self.marks.pop()
        items, self.stack[start:] = self.stack[start:], []
        return items

    def _storage(self, identity: Any) -> Storage:
        tag, kind, key, _, numel = identity[:5]
        if tag != "storage" or not isinstance(kind, Named) or not isinstance(key, str) or type(numel) is not int:
            raise ValueError("unknown kind of storage")
        return self.storages.setdefault(key, Storage(kind.name, key, numel))


def _filled(container: Any, items: list[Any]) -> Any:
    """`container` with `items` put in; what is neither list nor dictionary stays as it is."""
    if isinstance(container, list):
        container.extend(items)
    elif isinstance(container, dict):
        pairs = zip(items[::2], items[1::2], strict=True)
        container.update((key, value) for key, value in pairs if isinstance(key, str | int))
    return container

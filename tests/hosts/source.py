"""What modules give names to, read from their source as syntax trees; nothing is imported."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

OLD_NAMES = {"modules.generation_parameters_copypaste": "modules.infotext_utils"}
OPTION_MODULES = ("modules.shared_options", "modules.ui_definitions", "modules.shared_legacy")
OPTION_CLASSES = ("OptionInfo", "LegacyOption")


@dataclass
class Thing:
    """What a name stands for: a function with parameters, a class with members, or a value of which we know no more."""

    kind: str  # function, class, value
    parameters: tuple[str, ...] = ()
    members: dict[str, "Thing"] = field(default_factory=dict)
    bases: tuple[str, ...] = ()


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> tuple[str, ...]:
    """Each as its name with what may be done about it: `a`, `a=` with a default, `*a`, `a:` by keyword only, `**a`."""
    given = function.args
    plain = [*given.posonlyargs, *given.args]
    named = [argument.arg + "=" * (index >= len(plain) - len(given.defaults)) for index, argument in enumerate(plain)]
    keywords = [argument.arg + ":" + "=" * (default is not None)
                for argument, default in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    rest = [f"*{given.vararg.arg}"] if given.vararg else []
    more = [f"**{given.kwarg.arg}"] if given.kwarg else []
    return (*named, *rest, *keywords, *more)


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Of a block and of those inside it: what is under an `if` or a `try` counts as being there."""
    for node in body:
        yield node
        for part in ("body", "orelse", "finalbody"):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield from statements(getattr(node, part, []))
        for handler in getattr(node, "handlers", []):
            yield from statements(handler.body)


def things(body: list[ast.stmt], imports: bool = True) -> dict[str, Thing]:
    """What a block of code gives names to."""
    found: dict[str, Thing] = {}
    for node in statements(body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found[node.name] = Thing("value") if decorated_as_value(node) else Thing("function", parameters(node))
        elif isinstance(node, ast.ClassDef):
            bases = tuple(base.id for base in node.bases if isinstance(base, ast.Name))
            found[node.name] = Thing("class", members=things(node.body) | attributes(node), bases=bases)
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.For | ast.With):
            for target in targets(node):
                found.setdefault(target, Thing("value"))
        elif imports and isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                found.setdefault(alias.asname or alias.name.partition(".")[0], Thing("value"))
    return found


def decorated_as_value(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(ast.unparse(decorator) == "property" or ast.unparse(decorator).endswith(".setter")
               for decorator in function.decorator_list)


def targets(node: ast.stmt) -> Iterator[str]:
    """Plain names that a statement assigns to."""
    for part in ("targets", "target", "items"):
        value = getattr(node, part, [])
        for target in value if isinstance(value, list) else [value]:
            for name in ast.walk(getattr(target, "optional_vars", None) or target):
                if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store):
                    yield name.id


def attributes(node: ast.ClassDef) -> dict[str, Thing]:
    """What methods of a class assign to `self`, plainly or through `super().__setattr__`."""
    found = {}
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store) and ast.unparse(part.value) == "self":
            found.setdefault(part.attr, Thing("value"))
    return {name: thing for name, thing in found.items() if name not in things(node.body)}


class Tree:
    """The modules below some folders, of which the first that has one gives it."""

    def __init__(self, *folders: Path) -> None:
        self.folders = folders
        self.known: dict[str, dict[str, Thing] | None] = {}

    def module(self, name: str) -> dict[str, Thing] | None:
        """What a module gives names to; None if there is no such module."""
        if name not in self.known:
            code = self.code(name)
            self.known[name] = None if code is None else things(code.body)
        return self.known[name]

    def code(self, name: str) -> ast.Module | None:
        """The source of a module as a syntax tree."""
        path = self.path(name)
        return None if path is None else ast.parse(path.read_text(encoding="utf-8-sig"))

    def path(self, name: str) -> Path | None:
        stem = name.replace(".", "/")
        candidates = [folder / form for folder in self.folders for form in (f"{stem}.py", f"{stem}/__init__.py")]
        found = next((path for path in candidates if path.is_file()), None)
        if found is None and name in OLD_NAMES:  # which the module gives itself when it is imported
            newer = self.path(OLD_NAMES[name])
            return newer if newer is not None and name in newer.read_text(encoding="utf-8-sig") else None
        return found

    def names(self) -> list[str]:
        """Of all modules."""
        found = {path.relative_to(folder).with_suffix("").as_posix().replace("/", ".")
                 for folder in self.folders for path in folder.rglob("*.py")}
        return sorted(name.removesuffix(".__init__") for name in found)

    def members(self, module: str, name: str) -> dict[str, Thing]:
        """Of a class, with those of its bases in the same module."""
        here = self.module(module) or {}
        thing = here.get(name, Thing("class"))
        inherited: dict[str, Thing] = {}
        for base in thing.bases:
            inherited |= self.members(module, base) if base in here else {}
        return inherited | thing.members

    def options(self) -> set[str]:
        """The host's settings: keys of dictionaries whose values are option objects."""
        entries = [pair for node in self.nodes(*OPTION_MODULES) if isinstance(node, ast.Dict)
                   for pair in zip(node.keys, node.values, strict=True)]
        return {str(key.value) for key, value in entries
                if isinstance(key, ast.Constant) and ast.unparse(value).partition("(")[0] in OPTION_CLASSES}

    def flags(self) -> set[str]:
        """The flags of the host's command line, as they are called once they have been read."""
        words = [str(argument.value) for node in self.nodes("modules.cmd_args") if isinstance(node, ast.Call)
                 and ast.unparse(node.func).endswith("add_argument")
                 for argument in node.args if isinstance(argument, ast.Constant)]
        return {word[2:].replace("-", "_") for word in words if word.startswith("--")}

    def nodes(self, *modules: str) -> Iterator[ast.AST]:
        for module in modules:
            yield from ast.walk(self.code(module) or ast.Module([], []))

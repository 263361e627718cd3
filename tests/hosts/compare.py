"""Holds a fake host against the real one's source: names and signatures that only the fake has, or has differently.

    python tests/hosts/compare.py TREE HOST

TREE is a checkout of the host. Also says what our adapters use of the host and the host has not, or takes in another
way. What is private in a fake, what its functions do, and the values of its defaults are free.
"""

import argparse
import ast
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.hosts.house import FAKES, MANAGERS, TREES
from tests.hosts.source import Thing, Tree, things

ADAPTERS = Path(__file__).resolve().parents[2] / "t2v" / "hosts"
USED_BY = {
    "a1111": ["webui"], "forge": ["webui", "forge"], "reforge": ["webui", "forge"], "sdnext": ["webui", "sdnext"]}
# Objects that modules hold, and the classes that say what these can do: the module, of which the first that is there.
INSTANCES = {
    "modules.shared.state": ("State", "modules.shared_state"),
    "modules.shared.opts": ("Options", "modules.options_handler", "modules.options"),
    "modules.shared.prompt_styles": ("StyleDatabase", "modules.styles"),
    "modules.sd_models.model_data": ("SdModelData", "modules.sd_models"),
    "modules.modeldata.model_data": ("ModelData", "modules.modeldata"),
}


def differences(fake: Tree, real: Tree) -> Iterator[str]:
    """Where the fake is not like the real host."""
    for name in fake.names():
        there = real.module(name)
        if there is None:
            yield f"{name}: the host has no such module"
            continue
        code = fake.code(name)
        assert code is not None
        yield from compared(name, things(code.body, imports=False), there, real)
        yield from (f"{name}.{lost}: not there in the host" for lost in lent(code) if lost not in there)
    yield from (f"option {name}: not there in the host" for name in sorted(fake.options() - real.options()))
    yield from (f"flag {name}: not there in the host" for name in sorted(fake.flags() - real.flags()))


def lent(code: ast.Module) -> Iterator[str]:
    """Names that a fake module has from others of the host for no sake but having them."""
    used = {node.id for node in ast.walk(code) if isinstance(node, ast.Name)}
    for node in code.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("modules."):
            yield from (alias.name for alias in node.names if alias.name not in used)


def compared(where: str, made: dict[str, Thing], there: dict[str, Thing], real: Tree) -> Iterator[str]:
    """Differences between what a fake module or class and the real one give names to."""
    for name, thing in made.items():
        other = there.get(name)
        if name.startswith("_") and not name.startswith("__"):
            continue
        if other is None:
            yield f"{where}.{name}: not there in the host"
        elif thing.kind != other.kind:
            yield f"{where}.{name}: a {thing.kind} in the fake, a {other.kind} in the host"
        elif thing.parameters != other.parameters:
            yield f"{where}.{name}({', '.join(thing.parameters)}): takes {', '.join(other.parameters)} in the host"
        elif thing.kind == "class":
            yield from compared(f"{where}.{name}", thing.members, real.members(where, name), real)


# ---- what our adapters use ----


def uses(host: str) -> Iterator[tuple[str, str, ast.Call | None]]:
    """Dotted names of the host that adapters use, with where, and with the call if it is one."""
    replaced: set[str] = set()
    for file in reversed(USED_BY[host]):
        tree = ast.parse((ADAPTERS / f"{file}.py").read_text(encoding="utf-8"))
        known = dict(bindings(tree))
        if host in MANAGERS:
            known["self.manager"] = MANAGERS[host]
        for function in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
            if function.name not in replaced:
                yield from function_uses(function, dict(known), f"{file}.{function.name}")
        replaced |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    yield from entry_uses()


def entry_uses() -> Iterator[tuple[str, str, ast.Call | None]]:
    tree = ast.parse((ADAPTERS / "entry.py").read_text(encoding="utf-8"))
    known = dict(bindings(tree))
    for function in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
        yield from function_uses(function, dict(known), f"entry.{function.name}")


def bindings(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Names under which modules of the host are known in a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "modules":
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def function_uses(
    function: ast.FunctionDef, known: dict[str, str], where: str
) -> Iterator[tuple[str, str, ast.Call | None]]:
    calls = {id(node.func): node for node in ast.walk(function) if isinstance(node, ast.Call)}
    for node in ast.walk(function):  # state = shared.state
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            value = resolved(node.value, known)
            if value:
                known[node.targets[0].id] = value
    for node in ast.walk(function):
        if isinstance(node, ast.Attribute) and (name := resolved(node, known)):
            yield name, where, calls.get(id(node))


def resolved(node: ast.expr, known: dict[str, str]) -> str:
    """The dotted name of the host that an expression means; empty if it means something else."""
    text = ast.unparse(node)
    for start in sorted(known, key=len, reverse=True):
        if text == start or text.startswith(start + "."):
            rest = text.removeprefix(start)
            return known[start] + rest if all(part.isidentifier() for part in rest.split(".")[1:]) else ""
    return ""


def lacking(host: str, real: Tree) -> Iterator[str]:
    """What our adapters use and the host has not, or takes in another way."""
    for name, where, call in uses(host):
        thing = looked_up(name, real)
        if thing is None:
            yield f"{where} uses {name}, which the host has not"
        elif thing.kind == "function" and call is not None and (fault := misfit(call, thing)):
            yield f"{where} calls {name}({', '.join(thing.parameters)}) {fault}"


def looked_up(name: str, real: Tree) -> Thing | None:
    """What the host has under a dotted name; a value where that is beyond what can be read."""
    for instance, (kind, *modules) in INSTANCES.items():
        if name.startswith(instance + "."):
            first = name.removeprefix(instance + ".").partition(".")[0]
            if instance == "modules.shared.opts" and first in real.options():
                return Thing("value")
            module = next(module for module in modules if real.module(module) is not None)
            return method(real, module, kind, first)
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        module = real.module(".".join(parts[:end]))
        if module is not None:
            return Thing("value") if end == len(parts) else module.get(parts[end])
    return Thing("value") if real.path(name) else None


def method(real: Tree, module: str, kind: str, name: str) -> Thing | None:
    """A method of a class, without `self`."""
    thing = real.members(module, kind).get(name)
    return Thing("function", thing.parameters[1:]) if thing is not None and thing.kind == "function" else thing


def misfit(call: ast.Call, function: Thing) -> str:
    """What is wrong with how `call` calls it; empty if nothing."""
    plain = [name for name in function.parameters if not name.startswith("*") and ":" not in name]
    keywords = {name.rstrip("=").rstrip(":") for name in function.parameters if not name.startswith("*")}
    takes_any = any(name.startswith("**") for name in function.parameters)
    if len(call.args) > len(plain) and not any(name.startswith("*") for name in function.parameters):
        return f"with {len(call.args)} arguments"
    strange = [word.arg for word in call.keywords if word.arg and word.arg not in keywords]
    if strange and not takes_any:
        return f"with {', '.join(map(str, strange))}"
    given = {name.rstrip("=") for name in plain[:len(call.args)]} | {word.arg for word in call.keywords}
    left = [name for name in plain if not name.endswith("=") and name not in given]
    return f"without {', '.join(left)}" if left else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", type=Path, help="a checkout of the host")
    parser.add_argument("host", choices=TREES)
    given = parser.parse_args()
    real = Tree(given.tree)
    found = list(differences(Tree(*(FAKES / tree for tree in TREES[given.host])), real))
    found += lacking(given.host, real)
    print("\n".join(sorted(set(found))) or f"{given.host}: as in the host")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

"""What the pages say works: commands run, links lead somewhere, targets exist."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pytest

from t2v.cli import parser

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
FENCED = re.compile(r"^(<!-- not run: [^>]+ -->\n+)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"""\]\(([^)\s]+)|\b(?:src|href)=["']([^"']+)""")


class Block(NamedTuple):
    """A fenced block of a page; `run` is false under a comment `<!-- not run: the reason -->`."""

    run: bool
    language: str
    body: str

    @property
    def commands(self) -> list[list[str]]:
        """The words of every command: lines after "$ " where there are such, else all but comments."""
        if self.language not in ("console", "bash"):
            return []
        lines = self.body.replace("\\\n", " ").replace("\\", "/").splitlines()
        typed = [line[2:] for line in lines if line.startswith("$ ")] or lines
        return [words for line in typed if (words := shlex.split(line, comments=True))]


def blocks(text: str) -> list[Block]:
    return [Block(not marked, language, body) for marked, language, body in FENCED.findall(text)]


def prose(text: str) -> str:
    return FENCED.sub("", text)


def said(text: str) -> list[list[str]]:
    """The words of every command, in blocks and in running text."""
    inline = [code.split() for code in INLINE.findall(prose(text))]
    return [words for block in blocks(text) for words in block.commands] + [words for words in inline if words]


def arguments(words: list[str]) -> list[str] | None:
    """What a command says to t2v; None if it is about something else."""
    if PurePosixPath(words[0]).name == "t2v":
        return words[1:]
    return words[3:] if words[1:3] == ["-m", "t2v"] else None


def started(block: Block) -> Iterator[list[str]]:
    """What Python is started with to do as a block says."""
    if block.language == "python":
        yield ["-c", block.body]
    for words in block.commands:
        if (args := arguments(words)) is not None:
            yield ["-m", "t2v", *args]


def links(text: str) -> list[str]:
    """The files of this project that a page leads to."""
    found = ["".join(groups) for groups in LINK.findall(INLINE.sub("", prose(text)))]
    return [link.partition("#")[0] for link in found if not re.match(r"[a-z]+:|#", link)]


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def test_every_command_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the page and in one folder, as a reader does it."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    commands = [args for block in blocks(read("README.md")) if block.run for args in started(block)]
    assert ["-m", "t2v"] in [args[:2] for args in commands]
    for args in commands:
        done = subprocess.run([sys.executable, *args], cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{shlex.join(args)}\n{done.stdout}{done.stderr}"


def test_commands_that_cannot_be_run_here_have_the_right_flags(capsys: pytest.CaptureFixture[str]) -> None:
    for block in blocks(read("README.md")):
        for args in filter(None, map(arguments, block.commands)):
            assert parser().parse_args(args), capsys.readouterr().err


@pytest.mark.parametrize("page", PAGES)
def test_every_target_and_module_that_a_page_names_exists(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    for words in said(read(page)):
        if words[0] == "make":
            assert {word for word in words[1:] if "=" not in word} <= targets, shlex.join(words)
        if PurePosixPath(words[0]).name == "python" and words[1:2] == ["-m"]:
            assert find_spec(words[2]), shlex.join(words)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_somewhere(page: str) -> None:
    assert not [link for link in links(read(page)) if not (ROOT / link).exists()]


def test_pages_are_read_as_people_read_them() -> None:
    page = """Type `make demo` or `t2v models`, see [`a/b`](a/b.py#top) and <img src="c.png"> or [this](https://x.y).

```console
$ t2v generate "a cat" \\
      --seed 3   # a comment
a/film.mp4
$ make test
```

<!-- not run: no such model -->
```bash
# a comment
.venv\\Scripts\\t2v generate "a [link](here)"
python -m t2v models
```
```python
print(1)
```
"""
    first, second, third = blocks(page)
    assert (first.run, second.run, third.run) == (True, False, True)
    assert first.commands == [["t2v", "generate", "a cat", "--seed", "3"], ["make", "test"]]
    assert [arguments(words) for words in second.commands] == [["generate", "a [link](here)"], ["models"]]
    assert list(started(first)) == [["-m", "t2v", "generate", "a cat", "--seed", "3"]]
    assert list(started(third)) == [["-c", "print(1)\n"]]
    assert links(page) == ["a/b.py", "c.png"]
    assert ["make", "demo"] in said(page)
    assert ["make", "test"] in said(page)

"""The command line: `t2v generate`, `t2v models`, `t2v info`. Its flags are the fields of the request.

Exit codes: 0 done, 1 a fault of ours, 2 something about the request, the model or the files, 130 interrupted.
"""

import argparse
import json
import logging
import signal
import sys
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import Field, asdict, fields
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from t2v import __version__
from t2v.errors import ModelError, RequestError, T2VError
from t2v.generate import Film, Watch, generate
from t2v.hosts.standalone import Standalone, best_device
from t2v.models import catalog
from t2v.request import VideoRequest, value_type
from t2v.sampling import SAMPLERS
from t2v.schedule import SPACINGS
from t2v.video import FORMATS, probe, read_infotext

CHOICES: dict[str, Iterable[str]] = {"samplers": SAMPLERS, "spacings": SPACINGS, "formats": FORMATS}
PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    args = parser().parse_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.DEBUG if args.debug else logging.WARNING)
    try:
        return int(args.run(args))
    except T2VError as error:
        complain(args, str(error))
        return 2
    except KeyboardInterrupt:
        complain(args, "interrupted")
        return 130
    except Exception as error:
        if args.debug:
            traceback.print_exc()
        complain(args, f"unexpected {type(error).__name__}: {error}".splitlines()[0] + " (--debug shows where)")
        return 1


def complain(args: argparse.Namespace, message: str) -> None:
    """One line on stderr, and an object with "error" on stdout for scripts."""
    print(f"t2v: {message}", file=sys.stderr)
    if args.json:
        print(json.dumps({"error": message}))


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--models-dir", type=Path, default=Path("models"), metavar="FOLDER",
                        help="where models are, as ModelScope/NAME or text2video/NAME (default: models)")
    common.add_argument("--json", action="store_true", help="results as JSON, one object a line")
    common.add_argument("--debug", action="store_true", help="say more, and show where an error came from")

    top = argparse.ArgumentParser(prog="t2v", description="Films from a sentence.")
    top.add_argument("--version", action="version", version=f"t2v {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("generate", parents=[common], help="make films", description="Make films.")
    command.set_defaults(run=run_generate)
    command.add_argument("prompts", nargs="+", metavar="PROMPT", help="what a film shows; one film for each")
    for spec in fields(VideoRequest):
        if spec.name != "prompt":
            command.add_argument(f"--{spec.name.replace('_', '-')}", **flag(spec))
    command.add_argument("--output", type=Path, default=Path("outputs"), metavar="FOLDER",
                         help="where films go, in a folder of today's date (default: outputs)")
    command.add_argument("--device", default=None, help="cpu, cuda, cuda:1, mps, xpu (default: the best there is)")
    command.add_argument("--precision", choices=PRECISIONS, default=None,
                         help="of the networks' computation (default: float16 on a GPU, float32 on the CPU)")

    command = commands.add_parser("models", parents=[common], help="list the models there are")
    command.set_defaults(run=run_models)

    command = commands.add_parser("info", parents=[common], help="show how a film was made")
    command.set_defaults(run=run_info)
    command.add_argument("film", type=Path, metavar="FILM")
    return top


def flag(spec: "Field[Any]") -> dict[str, Any]:
    """What argparse should know of a request's field."""
    limits, kind = spec.metadata, value_type(spec)
    choices = CHOICES.get(limits.get("choices", ""))
    notes = [f"one of {', '.join(choices)}"] if choices else []
    if "ge" in limits:
        notes.append(f"{limits['ge']} to {limits['le']}")
    notes.append("default: the model's" if spec.default is None else f"default: {spec.default or 'none'}")
    # Numbers arrive as text and are converted by the request itself, which explains what it does not accept.
    return {"metavar": {int: "N", float: "X", str: "TEXT"}[kind], "default": spec.default, "dest": spec.name,
            "help": f"{limits['description']} ({'; '.join(notes)})".replace("%", "%%")}


def run_generate(args: argparse.Namespace) -> int:
    """Makes a film of every prompt; Ctrl-C finishes the one at hand from what there is."""
    named = {spec.name: getattr(args, spec.name) for spec in fields(VideoRequest) if spec.name != "prompt"}
    requests = [VideoRequest(prompt=prompt, **named) for prompt in args.prompts]
    host = host_of(args)
    model = catalog.open_model(requests[0].model, host.model_folders)
    with Progress(quiet=args.json) as watch:
        for request in requests:
            for film in generate(request, model, host, watch):
                watch.show(film, args.json)
            if watch.stopped:
                return 130
    return 0


def run_models(args: argparse.Namespace) -> int:
    """Lists every model with its folder and what it is made for, or what is wrong with it."""
    for name, folder in catalog.find_models(Standalone(models=args.models_dir).model_folders).items():
        facts: dict[str, Any] = {"name": name, "folder": str(folder)}
        try:
            facts |= catalog.describe(folder)
        except ModelError as error:
            facts["problem"] = str(error)
        print(json.dumps(facts) if args.json else "  ".join(f"{key}: {value}" for key, value in facts.items()))
    return 0


def run_info(args: argparse.Namespace) -> int:
    """Shows what a film is and the settings that make it again."""
    facts, text = asdict(probe(args.film)), read_infotext(args.film)
    if args.json:
        print(json.dumps({**facts, "infotext": text}))
        return 0
    print(text)
    print("\n" + ", ".join(f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
                           for key, value in facts.items()))
    return 0


def host_of(args: argparse.Namespace) -> Standalone:
    """The host that the flags of `generate` describe."""
    try:
        device = torch.device(args.device) if args.device else best_device()
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise RequestError("device", f"{args.device} cannot be used here ({str(error).splitlines()[0]})") from error
    return Standalone(device, PRECISIONS.get(args.precision), args.models_dir, args.output)


class Progress(Watch):
    """A bar for each stage on stderr. The first Ctrl-C asks for a stop, the second insists."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.bar: tqdm[Any] | None = None

    def __enter__(self) -> "Progress":
        self.before = signal.signal(signal.SIGINT, self.interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self.before)
        if self.bar is not None:
            self.bar.close()

    def interrupt(self, _signal: int, _frame: FrameType | None) -> None:
        if self.stopped:
            raise KeyboardInterrupt
        self.stopped = True

    def tick(self, stage: str, done: int, total: int, x0: Tensor | None = None) -> None:  # noqa: ARG002
        if self.quiet:
            return
        if done == 0:
            self.bar = tqdm(total=total, desc=f"{stage:8}", leave=False, file=sys.stderr)
        assert self.bar is not None
        self.bar.update(done - self.bar.n)
        if done == total:
            self.bar.close()

    def show(self, film: Film, as_json: bool) -> None:
        """Where the film is, and how long it took."""
        if as_json:
            print(json.dumps({"path": str(film.path), "seed": film.request.seed, "infotext": film.infotext,
                              "seconds": round(film.seconds, 2), "interrupted": film.interrupted}), flush=True)
        else:
            stopped = ", stopped early" if film.interrupted else ""
            print(f"{film.path}  (seed {film.request.seed}, {film.seconds:.1f} s{stopped})", flush=True)

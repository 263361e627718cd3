"""The command line: `t2v generate`, `t2v serve`, `t2v models`, `t2v download`, `t2v convert`, `t2v doctor`,
`t2v bench`, `t2v info`. Flags are the fields of the request, and for `serve` those of the settings.

Exit codes: 0 done, 1 a fault of ours, 2 something about the request, the model or the files, 130 interrupted.
"""

import argparse
import json
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import Field, asdict, fields
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from t2v import __version__, bench, convert, doctor, download
from t2v.errors import DownloadError, ModelError, RequestError, T2VError
from t2v.fitting import FITS
from t2v.generate import Film, Watch, generate
from t2v.hosts.standalone import Standalone, best_device
from t2v.jobs import Runner
from t2v.models import catalog
from t2v.request import VideoRequest, value_type
from t2v.sampling import SAMPLERS
from t2v.schedule import SPACINGS
from t2v.settings import Settings
from t2v.upscale import UPSCALERS
from t2v.video import FORMATS, probe, read_infotext
from t2v.windows import NOISES

CHOICES: dict[str, Iterable[str]] = {"samplers": SAMPLERS, "spacings": SPACINGS, "formats": FORMATS, "fits": FITS,
                                     "noises": NOISES, "upscalers": UPSCALERS}
PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
METAVARS = {int: "N", float: "X", str: "TEXT", bool: "YES|NO"}
# Of the settings, those of `serve`: folders have flags of their own.
SERVED = [spec for spec in fields(Settings) if not spec.metadata.get("folder")]
B = TypeVar("B", bound="Bars")
PASSWORD = "T2V_PASSWORD"  # in the environment, where other users of the machine do not see it


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

    maker = argparse.ArgumentParser(add_help=False)
    maker.add_argument("--output", type=Path, default=Path("outputs"), metavar="FOLDER",
                       help="where films go, in a folder of today's date (default: outputs)")
    maker.add_argument("--device", default=None, help="cpu, cuda, cuda:1, mps, xpu (default: the best there is)")
    maker.add_argument("--precision", choices=PRECISIONS, default=None,
                       help="of the networks' computation (default: float16 on a GPU, float32 on the CPU)")

    top = argparse.ArgumentParser(prog="t2v", description="Films from a sentence.")
    top.add_argument("--version", action="version", version=f"t2v {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("generate", parents=[common, maker], help="make films", description="Make films.")
    command.set_defaults(run=run_generate)
    command.add_argument("prompts", nargs="+", metavar="PROMPT", help="what a film shows; one film for each")
    for spec in fields(VideoRequest):
        if spec.name != "prompt":
            command.add_argument(f"--{spec.name.replace('_', '-')}", **flag(spec))

    command = commands.add_parser("serve", parents=[common, maker], help="the Text2Video page, for a browser",
                                  description="The Text2Video page, for a browser, until Ctrl-C.")
    command.set_defaults(run=run_serve)
    command.add_argument("--listen", default="127.0.0.1", metavar="ADDRESS",
                         help="who may come: 127.0.0.1 this machine, 0.0.0.0 everybody (default: 127.0.0.1)")
    command.add_argument("--port", default="7861", metavar="N", help="1 to 65535 (default: 7861)")
    command.add_argument("--inputs-dir", default="", metavar="FOLDER",
                         help="a folder with pictures, films and sounds that the API may be told to use")
    command.add_argument("--user", default="", metavar="NAME", help="let in only who knows this name and the password")
    command.add_argument("--password", default="", metavar="TEXT",
                         help=f"better given as {PASSWORD} in the environment")
    for spec in SERVED:
        command.add_argument(f"--{spec.name.replace('_', '-')}", **flag(spec))

    command = commands.add_parser("models", parents=[common], help="list the models there are")
    command.set_defaults(run=run_models)

    command = commands.add_parser("download", parents=[common], help="fetch a known model", description="Fetch a known "
                                  "model, after telling its size and licence; without a name, list those there are.")
    command.set_defaults(run=run_download)
    command.add_argument("name", nargs="?", default="", metavar="NAME", help="of the model; none: list them all")
    command.add_argument("--yes", action="store_true", help="accept size and licence without being asked")

    command = commands.add_parser("convert", parents=[common], help="write a model in another layout",
                                  description="Write a model again, into a new folder; the one it is read from stays.")
    command.set_defaults(run=run_convert)
    command.add_argument("model", metavar="MODEL", help="the name of a model, or a folder or file")
    command.add_argument("target", type=Path, metavar="TARGET", help="the folder to write; it must not be there yet")
    command.add_argument("--to", default="compact", metavar="LAYOUT",
                         help="compact: three files of safetensors, which open fastest; diffusers: a folder for "
                              "diffusers; published: as ModelScope published it (default: compact)")
    command.add_argument("--precision", default="fp16", metavar="PRECISION",
                         help="fp16, or keep, that of the files (default: fp16)")

    command = commands.add_parser("doctor", parents=[common, maker], help="look for what is wrong",
                                  description="Look at model files and at what they run on. Exit code 2: something is "
                                              "wrong.")
    command.set_defaults(run=run_doctor)
    command.add_argument("folder", nargs="?", type=Path, metavar="FOLDER",
                         help="of one model or of several (default: all models there are)")
    command.add_argument("--hash", action="store_true", help="read weight files whole and compare with published ones")

    command = commands.add_parser("bench", parents=[common, maker], help="measure how fast films are made here",
                                  description="Measure how fast films are made here, and what memory that takes: a "
                                              "table for a report. No film is written.")
    command.set_defaults(run=run_bench)
    command.add_argument("--model", default="demo", metavar="TEXT", help="name or folder of a model (default: demo)")
    command.add_argument("--random", action="store_true",
                         help="random weights of the published size, which need not be fetched")
    command.add_argument("--size", action="append", default=[], metavar="WxH",
                         help="in pixels; may be given several times (default: the model's)")
    command.add_argument("--frames", action="append", default=[], metavar="N",
                         help="of a film; may be given several times (default: the model's)")
    command.add_argument("--steps", default="5", metavar="N", help="to measure, after two to warm up (default: 5)")
    command.add_argument("--graphs", action="store_true", help="with CUDA graphs")

    command = commands.add_parser("info", parents=[common], help="show how a film was made")
    command.set_defaults(run=run_info)
    command.add_argument("film", type=Path, metavar="FILM")
    return top


def flag(spec: "Field[Any]") -> dict[str, Any]:
    """What argparse should know of a field of the request or the settings."""
    limits, kind = spec.metadata, value_type(spec)
    known = limits.get("choices", "")
    choices = known if isinstance(known, dict) else CHOICES.get(known)
    notes = [f"one of {', '.join(choices)}"] if choices else []
    if "ge" in limits:
        notes.append(f"{limits['ge']} to {limits['le']}")
    default = ("yes" if spec.default else "no") if kind is bool else "none" if spec.default == "" else spec.default
    notes.append("default: the model's" if spec.default is None else f"default: {default}")
    # Values arrive as text and are converted by the dataclass itself, which explains what it does not accept.
    return {"metavar": METAVARS[kind], "default": spec.default, "dest": spec.name,
            "help": f"{limits['description']} ({'; '.join(notes)})".replace("%", "%%")}


def run_generate(args: argparse.Namespace) -> int:
    """Makes a film of every prompt; Ctrl-C finishes the one at hand from what there is."""
    named = {spec.name: getattr(args, spec.name) for spec in fields(VideoRequest) if spec.name != "prompt"}
    requests = [VideoRequest(prompt=prompt, **named) for prompt in args.prompts]
    host = host_of(args)
    model = catalog.open_model(requests[0].model, host.model_folders)
    named_refiner = requests[0].upscale_model if requests[0].upscale > 1 else ""
    refiner = catalog.open_model(named_refiner, host.model_folders) if named_refiner else None
    with Progress(quiet=args.json) as watch:
        for request in requests:
            for film in generate(request, model, host, watch, refiner):
                watch.show(film, args.json)
            if watch.stopped:
                return 130
    return 0


def run_serve(args: argparse.Namespace) -> int:
    """Serves the page until Ctrl-C, which ends running jobs as ever: with a film of what there is."""
    settings = Settings(inputs=args.inputs_dir, **{spec.name: getattr(args, spec.name) for spec in SERVED})
    port = int(args.port) if args.port.isdecimal() and len(args.port) <= 5 else 0
    if not 1 <= port <= 65535:
        raise RequestError("port", f"must be a whole number from 1 to 65535, not {args.port!r}")
    password = args.password or os.environ.get(PASSWORD, "")
    auth = (args.user, password) if args.user and password else None
    if auth is None and (args.user or password):
        raise RequestError("user", "a name and a password (--user, --password) are needed together, or neither")
    try:
        from t2v.ui.server import serve  # only here: it takes seconds, and no other command needs it
    except ModuleNotFoundError as missing:
        raise RequestError("serve", f"the page needs the Python package {missing.name}; pip install "
                                    '"sd-webui-t2v[standalone]" brings all of them') from missing
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with serve(Runner(host_of(args, settings)), args.listen, port, auth) as url:
            print(json.dumps({"url": url}) if args.json else f"Text2Video is at {url} (Ctrl-C ends it)", flush=True)
            threading.Event().wait()
    except KeyboardInterrupt:
        return 0
    return 0


def run_models(args: argparse.Namespace) -> int:
    """Lists every model with its folder and what it is made for, or what is wrong with it."""
    folders = Standalone(models=args.models_dir).model_folders
    for name, folder in catalog.find_models(folders).items():
        facts: dict[str, Any] = {"name": name, "folder": str(folder)}
        try:
            facts |= catalog.describe(folder, folders)
        except ModelError as error:
            facts["problem"] = str(error)
        print(json.dumps(facts) if args.json else "  ".join(f"{key}: {value}" for key, value in facts.items()))
    return 0


def run_download(args: argparse.Namespace) -> int:
    """Fetches a known model, if the user agrees to its size and licence; without a name, lists them."""
    if not args.name:
        for model in download.known():
            facts = {"name": model.name, "size": model.size, "licence": model.licence, "about": model.about}
            print(json.dumps(facts) if args.json else
                  f"{model.name}: {model.about} ({gigabytes(model.size)}; {model.licence})")
        return 0
    plan = download.plan(args.name, args.models_dir.absolute() / "ModelScope")
    if plan.missing and not args.yes and not agreed(plan, args.json):
        return 2
    for file in plan.foreign:
        print(f"t2v: {plan.target / file.name}: is not the published file, and stays; rename it to fetch that",
              file=sys.stderr)
    with Transfer(quiet=args.json) as watch:
        try:
            folder = download.download(plan, watch)
        except DownloadError as error:
            if not watch.stopped:
                raise
            complain(args, str(error))
            return 130
    print(json.dumps({"name": plan.model.name, "folder": str(folder)}) if args.json else folder)
    return 0


def agreed(plan: download.Plan, as_json: bool) -> bool:
    """Tells what a download comes to and asks whether it may begin. RequestError where nobody can answer."""
    terms = (f"{plan.model.name}: {plan.model.about}\nfrom {plan.page}\nlicence: {plan.model.licence}\n"
             f"{gigabytes(plan.size)} to fetch into {plan.target}, {gigabytes(plan.free)} free")
    if as_json or not sys.stdin.isatty():
        raise RequestError("yes", f"a download needs your consent: --yes accepts this. {terms}")
    return input(f"{terms}\nFetch it? [y/N] ").strip().casefold() in ("y", "yes")


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def run_convert(args: argparse.Namespace) -> int:
    """Writes a model in another layout; Ctrl-C leaves nothing behind."""
    folders = Standalone(models=args.models_dir).model_folders
    model = catalog.open_model(args.model, folders)
    with Copying(quiet=args.json) as watch:
        folder = convert.convert(model, args.target, args.to, args.precision, folders, watch)
    if folder is None:
        complain(args, "interrupted, nothing was kept")
        return 130
    print(json.dumps({"folder": str(folder)}) if args.json else folder)
    return 0


def run_doctor(args: argparse.Namespace) -> int:
    """Prints what is the matter with models and machine."""
    with tqdm(desc="hash", unit="B", unit_scale=True, leave=False, file=sys.stderr,
              disable=args.json or not args.hash) as bar:
        report = doctor.examine(args.folder, host_of(args), bar.update if args.hash else None)
    print(json.dumps({"well": report.well, **asdict(report)}) if args.json else report.text)
    return 0 if report.well else 2


def run_bench(args: argparse.Namespace) -> int:
    """Prints how fast films of some sizes are made."""
    requests, host = bench.requests(args.size, args.frames, args.steps, args.model), host_of(
        args, Settings(graphs=args.graphs))
    measure = bench.Bench(host)
    model = bench.random_model(host) if args.random else catalog.open_model(args.model, host.model_folders)
    speeds = [measure.speed(model, request) for request in requests]
    told = bench.machine(host)  # by now it is known whether its kernels work
    print(json.dumps(bench.facts_of(model.name, told, speeds)) if args.json else
          bench.text_of(model.name, told, speeds))
    return 2 if all(speed.problem for speed in speeds) else 0


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


def host_of(args: argparse.Namespace, settings: Settings | None = None) -> Standalone:
    """The host that the flags of `generate` or `serve` describe."""
    try:
        device = torch.device(args.device) if args.device else best_device()
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise RequestError("device", f"{args.device} cannot be used here ({str(error).splitlines()[0]})") from error
    return Standalone(device, PRECISIONS.get(args.precision), args.models_dir, args.output,
                      settings or Settings())


class Bars:
    """Shows on stderr what is going on. The first Ctrl-C asks for a stop, the second insists."""

    stopped = False

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.bar: tqdm[Any] | None = None

    def __enter__(self: B) -> B:
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


class Progress(Bars, Watch):
    """A bar for each stage of a film."""

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
                              "seconds": round(film.seconds, 2), "interrupted": film.interrupted,
                              "notes": film.notes}), flush=True)
        else:
            stopped = ", stopped early" if film.interrupted else ""
            print(f"{film.path}  (seed {film.request.seed}, {film.seconds:.1f} s{stopped})", flush=True)
            for note in film.notes:
                print(f"t2v: {note}", file=sys.stderr)


class Transfer(Bars, download.Watch):
    """A bar of bytes for each stage of a download."""

    stage = ""

    def tick(self, progress: download.Progress) -> None:
        if self.quiet:
            return
        if self.bar is None or self.stage != progress.stage:
            if self.bar is not None:
                self.bar.close()
            self.stage = progress.stage
            self.bar = tqdm(total=progress.total, initial=progress.done, desc=f"{progress.stage:8}", leave=False,
                            unit="B", unit_scale=True, file=sys.stderr)
        self.bar.update(progress.done - self.bar.n)


class Copying(Bars, convert.Watch):
    """A bar of bytes for a conversion."""

    def tick(self, done: int, total: int) -> None:
        if self.quiet:
            return
        self.bar = self.bar or tqdm(total=total, desc="convert ", leave=False, unit="B", unit_scale=True,
                                    file=sys.stderr)
        self.bar.update(done - self.bar.n)

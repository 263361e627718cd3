"""How well does the demo model obey? `python -m training.evaluate` films every caption and looks at the films.

The films are made and read back as any user's would be. `--sheet FILE` also lays the first ones out in a picture.
"""

import argparse
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from t2v.generate import generate
from t2v.hosts.standalone import Standalone
from t2v.models.catalog import open_model
from t2v.request import VideoRequest
from t2v.video import read_film
from training.judge import Frames, Verdict, judge
from training.world import all_captions, caption

SEEDS = (1, 2, 3)
SHOWN = ("a red circle moving right", "a blue square moving up", "a yellow triangle moving left",
         "a green circle moving down", "a white square moving right", "a purple triangle moving up")


@dataclass(frozen=True)
class Score:
    """The share of films in which the prompt's word was seen, and the mean distance travelled in pixels."""

    colour: float
    shape: float
    direction: float
    travel: float


def films(prompts: Iterable[str], seed: int, folder: Path, **settings: object) -> Iterator[Frames]:
    """The frames f h w 3 of a film of every prompt, by the demo model at its default settings."""
    host = Standalone(device=torch.device("cpu"), outputs=folder)
    model = open_model("demo", host.model_folders)
    for prompt in prompts:
        request = VideoRequest(prompt=prompt, model="demo", seed=seed, **settings)  # type: ignore[arg-type]
        film = next(iter(generate(request, model, host)))
        yield np.stack(list(read_film(film.path)[1]))


def verdicts(seeds: Iterable[int] = SEEDS, **settings: object) -> Iterator[tuple[tuple[str, str, str], Verdict]]:
    """What was asked for (colour, shape, direction), and what was seen, for every caption and seed."""
    asked = all_captions()
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            shown = films([caption(*words) for words in asked], seed, Path(folder), **settings)
            yield from zip(asked, map(judge, shown), strict=True)


def score(seen: Iterable[tuple[tuple[str, str, str], Verdict]]) -> Score:
    """The shares over all films."""
    hits = [(v.colour == colour, v.shape == shape, v.direction == direction, v.travel)
            for (colour, shape, direction), v in seen]
    return Score(*(float(share) for share in np.mean(np.array(hits, dtype=float), axis=0)))


def contact_sheet(path: Path, seed: int = 1, shown: int = 8, scale: int = 2) -> None:
    """A row for each of six prompts: frames of its film from left to right, the prompt above."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for prompt, frames in zip(SHOWN, films(SHOWN, seed, Path(folder)), strict=True):
            picked = frames[np.linspace(0, len(frames) - 1, shown).round().astype(int)]
            strip = Image.fromarray(np.concatenate(list(picked), axis=1))
            row = Image.new("RGB", (strip.width * scale, strip.height * scale + 22), "white")
            row.paste(strip.resize((strip.width * scale, strip.height * scale), Image.Resampling.LANCZOS), (0, 22))
            ImageDraw.Draw(row).text((4, 5), prompt, fill="black")
            rows.append(np.asarray(row))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings in place of the defaults")
    parser.add_argument("--sheet", type=Path, help="write a picture of the first films here, and measure nothing")
    args = parser.parse_args()
    if args.sheet:
        contact_sheet(args.sheet, args.seeds[0])
        return
    seen = list(verdicts(args.seeds, **dict(pair.split("=", 1) for pair in args.set)))
    for (colour, shape, direction), v in seen:
        if (v.colour, v.shape, v.direction) != (colour, shape, direction):
            print(f"asked for {colour} {shape} {direction}, seen {v.colour} {v.shape} {v.direction}")
    print(f"{len(seen)} films: {score(seen)}")


if __name__ == "__main__":
    main()

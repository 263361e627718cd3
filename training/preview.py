"""Which colours do the latents of the demo model stand for? `python -m training.preview` finds out, after an export.

Linear least squares, from the latents of drawn frames to the same frames at an eighth of their size. The numbers go
into the demo's configuration.json, to four digits, as "latent_rgb".

They are a crude guess: of other frames they explain 57 % of the variance, and show where the shape is rather than its
colour, because this small autoencoder mixes colours with where edges lie inside a latent. The eight neighbours of each
latent, and products of its channels, would bring it to 76 %.
"""

import json

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from t2v.models.autoencoder import AutoencoderKL
from t2v.models.catalog import DEMO, open_model
from t2v.models.configuration import FILE
from t2v.preview import pictures
from training.world import film, random_scene


def main() -> None:
    vae, path = open_model(DEMO.name, []).vae, DEMO / FILE
    rows = [[round(number, 4) for number in row] for row in fitted(*examples(vae, 256, seed=4)).tolist()]
    content = json.loads(path.read_text())
    content["t2v"]["latent_rgb"] = rows
    path.write_text(json.dumps(content, indent=4) + "\n")
    print(f"R² {r_squared(torch.tensor(rows), *examples(vae, 64, seed=5)):.3f}")


@torch.inference_mode()
def examples(vae: AutoencoderKL, films: int, seed: int) -> tuple[Tensor, Tensor]:
    """Latents n c h w of frames of random films, and what a preview of them should be, n 3 h w in -1..1."""
    rng = np.random.default_rng(seed)
    frames = torch.cat([film(random_scene(rng), 4) for _ in range(films)])
    return torch.cat([vae.encode(part) for part in frames.split(64)]), F.avg_pool2d(frames, vae.factor)


def fitted(latents: Tensor, colours: Tensor) -> Tensor:
    """The projection c+1 3 from latents n c h w to colours n 3 h w with the least squared error."""
    rows, targets = (tensor.movedim(1, -1).flatten(0, -2).double() for tensor in (latents, colours))
    return torch.linalg.lstsq(F.pad(rows, (0, 1), value=1.0), targets).solution


def r_squared(projection: Tensor, latents: Tensor, colours: Tensor) -> float:
    """The share of the variance of `colours` that the preview explains; 1 is all of it."""
    seen = torch.from_numpy(pictures(latents.transpose(0, 1)[None], projection)).movedim(-1, 1) / 127.5 - 1
    spread = colours - colours.mean((0, 2, 3), keepdim=True)
    return 1 - float((colours - seen).square().sum() / spread.square().sum())


if __name__ == "__main__":
    main()

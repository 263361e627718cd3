"""Make the demo model from nothing: `python -m training.train`, a matter of hours on two cores.

Four stages, each of which goes on from where it was stopped (state in training/run/):

    autoencoder   frames of the tiny world to latents and back
    latents       a few thousand films through the finished encoder, once
    diffusion     the UNet, on those latents, told the prompt by a text tower that is not trained
    export        the three networks as fp16 files in the published format, to t2v/demo/

The recipe follows from what makes direction hard to learn: it is decided at high noise, where a network that
predicts noise is told little; and a frame learns its place in the film from nothing but the zero padding of the
temporal convolutions. So this network predicts v (Salimans and Ho 2022, arXiv 2202.00512), high noise is drawn more
often, no layer starts at zero, and the norms before those convolutions start with a bias of one.
"""

import argparse
import copy
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2v.models.autoencoder import AutoencoderConfig, AutoencoderKL
from t2v.models.catalog import DEMO
from t2v.models.text import TextConfig, TextTower
from t2v.models.unet import UNet3D, UNetConfig
from t2v.schedule import scaled_linear
from t2v.tokenizer import PAD, clip_tokenizer, token_ids
from training.world import film, random_scene, random_words

RUN = Path(__file__).parent / "run"
AUTOENCODER = AutoencoderConfig(ch=32, ch_mult=(1, 1, 2, 2), num_res_blocks=1)
TEXT = TextConfig(width=64, layers=1, heads=1, skip_last=0)
UNET = UNetConfig(dim=64, dim_mult=(1, 1), context_dim=64, num_heads=2, head_dim=32, res_blocks=1, attn_scales=(0.5,))
DEFAULTS = {"width": 64, "height": 64, "frames": 8, "fps": 8, "steps": 15, "cfg_scale": 3.0,
            "sampler": "DPM++ 2M", "spacing": "trailing"}
FRAMES = 16  # encoded of each film; every other one of them, from the first or the second on, is a film of 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", nargs="?", default="all", choices=["all", *STAGES])
    parser.add_argument("--autoencoder-steps", type=int, default=2000)
    parser.add_argument("--films", type=int, default=2560)
    parser.add_argument("--diffusion-steps", type=int, default=6000)
    parser.add_argument("--early", type=int, default=600, help="steps of the diffusion stage with high noise only")
    parser.add_argument("--batch", type=int, default=16, help="films of 8 frames in a step")
    args = parser.parse_args()
    RUN.mkdir(exist_ok=True)
    for name, stage in STAGES.items():
        if args.stage in ("all", name):
            stage(args)


def train_autoencoder(args: argparse.Namespace) -> None:
    """L1 and squared error, three times as strong on the shape, and a slight pull of the latents to a Gaussian."""
    net = AutoencoderKL(AUTOENCODER).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = Run("autoencoder", {"net": net}, args.autoencoder_steps, lr=2e-3)
    for step, rng in run.steps():
        frames = torch.cat([film(random_scene(rng), FRAMES)[rng.integers(FRAMES, size=2)] for _ in range(6)])
        frames = frames.contiguous(memory_format=torch.channels_last)
        mean, logvar = net.moments(frames)
        z = mean + torch.randn_like(mean) * (logvar / 2).exp()
        error = net.decode(z * AUTOENCODER.scale_factor) - frames
        weight = 1 + 3 * (frames > -0.7).any(dim=1, keepdim=True)
        kl = (mean.square() + logvar.exp() - 1 - logvar).mean() / 2
        loss = (weight * (error.abs() + error.square())).mean() + 3e-4 * kl
        run.step(step, loss, psnr=-10 * math.log10(error.square().mean().item() / 4))
    normalise(run.averages["net"])
    run.save(args.autoencoder_steps)


@torch.no_grad()
def normalise(net: nn.Module, count: int = 64) -> None:
    """Fold mean and spread of the latents into the 1x1 convolutions, so that the published scale factor holds."""
    assert isinstance(net, AutoencoderKL)
    rng = np.random.default_rng(1)
    frames = torch.cat([film(random_scene(rng), FRAMES)[::4] for _ in range(count)])
    mean = torch.cat([net.moments(part)[0] for part in frames.split(32)])
    centre, k = mean.mean((0, 2, 3)), 1 / (AUTOENCODER.scale_factor * mean.std((0, 2, 3)))
    n, quant, post = len(k), net.quant_conv, net.post_quant_conv
    assert quant.bias is not None
    assert post.bias is not None
    post.bias += post.weight[:, :, 0, 0] @ centre
    post.weight /= k[None, :, None, None]
    quant.weight[:n] *= k[:, None, None, None]
    quant.bias[:n] = (quant.bias[:n] - centre) * k
    quant.bias[n:] += 2 * k.log()


@torch.no_grad()
def encode_films(args: argparse.Namespace) -> None:
    """Latents of random films, and of each the scene."""
    path = RUN / "latents.pt"
    if path.exists():
        return
    net = restored("autoencoder", "net", AutoencoderKL(AUTOENCODER))
    rng, scenes, latents = np.random.default_rng(2), [], []
    for _ in range(args.films):
        scenes.append(random_scene(rng))
        latents.append(net.encode(film(scenes[-1], FRAMES)).half())
    torch.save({"latents": torch.stack(latents), "scenes": scenes}, path)


def train_diffusion(args: argparse.Namespace) -> None:
    """v prediction, on films of 8 frames.

    At first most films move right or down, and only high noise is shown. With four equally frequent directions a
    frame's index tells nothing without the direction's word, and the word nothing without the index: no slope leads
    to using either.
    """
    data = torch.load(RUN / "latents.pt", weights_only=False)
    latents, scenes = data["latents"].transpose(1, 2), data["scenes"]
    common = np.array([scene.direction in ("right", "down") for scene in scenes])
    unet, text, alphas = lifted(UNet3D(UNET)), bag_of_words(), scaled_linear().alphas
    run = Run("diffusion", {"unet": unet}, args.diffusion_steps, lr=1.5e-3)
    for step, rng in run.steps():
        early = step < args.early
        odds = np.where(common, 1.0, min(1.0, 0.2 + step / args.early))
        pick = rng.choice(len(scenes), size=args.batch, p=odds / odds.sum())
        x0 = latents[pick][:, :, rng.integers(2) :: 2].float()
        context = text(torch.tensor([tokens(random_words(scenes[i], rng)) for i in pick]))
        high = early | (rng.random(len(pick)) < 0.2)
        u = rng.random(len(pick))
        t = torch.from_numpy(np.where(high, 800 + 200 * u, 1000 * u**0.7).astype(np.int64))
        alpha = alphas[t].float()[:, None, None, None, None]
        sigma = (1 - alpha**2).sqrt()
        noise = torch.randn_like(x0)
        v = unet(alpha * x0 + sigma * noise, t, context)
        run.step(step, F.mse_loss(v, alpha * noise - sigma * x0))
    run.save(args.diffusion_steps)


def lifted(unet: UNet3D) -> UNet3D:
    """The norms before temporal convolutions with a bias of one, so that the zeros beyond a film's ends stand out."""
    for name, bias in unet.named_parameters():
        if "temopral_conv" in name and name.endswith(".0.bias"):
            nn.init.ones_(bias)
    return unet


@torch.no_grad()
def bag_of_words() -> TextTower:
    """A text tower that is not trained. Every word is a random vector, and every place, the 70 of the padding
    included, is the mean of all words up to there, so no word is hard to find. A tower trained with the UNet soon
    knew the colours, which help most at first, and nothing else."""
    text = TextTower(TEXT).requires_grad_(False)
    for weight in text.transformer.parameters():
        nn.init.zeros_(weight)
    (block,) = text.transformer.resblocks
    nn.init.ones_(block.ln_1.weight)
    nn.init.eye_(block.attn.in_proj_weight[-TEXT.width:])
    nn.init.eye_(block.attn.out_proj.weight)
    nn.init.normal_(text.token_embedding.weight, generator=torch.Generator().manual_seed(1))
    nn.init.zeros_(text.token_embedding.weight[PAD])
    return text


def tokens(words: str) -> list[int]:
    """The 77 tokens of a short prompt."""
    return token_ids([(token, 1.0) for token in clip_tokenizer().encode(words)])


def export(_: argparse.Namespace) -> None:
    """The averaged weights in fp16, in the containers, under the names and with the wrapper of the published files."""
    unet = half(restored("diffusion", "unet", UNet3D(UNET)))
    text = half(bag_of_words())
    vae = half(restored("autoencoder", "net", AutoencoderKL(AUTOENCODER)))
    torch.save(unet, DEMO / "text2video_pytorch_model.pth")
    torch.save({"state_dict": {f"first_stage_model.{key}": tensor for key, tensor in vae.items()}},
               DEMO / "VQGAN_autoencoder.pth")
    torch.save(text, DEMO / "open_clip_pytorch_model.bin")
    (DEMO / "configuration.json").write_text(json.dumps(configuration(), indent=4) + "\n")


def half(net: nn.Module) -> dict[str, Tensor]:
    return {key: tensor.half().contiguous() for key, tensor in net.state_dict().items()}


def configuration() -> dict[str, Any]:
    """configuration.json, in its published form, and what that leaves to the code in a block of ours."""
    kind = "latent-text-to-video-synthesis"
    model_args = {"ckpt_clip": "open_clip_pytorch_model.bin", "ckpt_unet": "text2video_pytorch_model.pth",
                  "ckpt_autoencoder": "VQGAN_autoencoder.pth", "max_frames": 8, "tiny_gpu": 1}
    model_cfg = {**{f"unet_{key}": value for key, value in asdict(UNET).items() if key != "temporal_attention"},
                 "temporal_attention": "True", "num_timesteps": 1000, "mean_type": "v", "var_type": "fixed_small",
                 "loss_type": "mse"}
    ours = {"card": "One coloured shape, moving: 'a red circle moving right'.", "defaults": DEFAULTS,
            "autoencoder": asdict(AUTOENCODER), "text": asdict(TEXT)}
    return {"framework": "pytorch", "task": "text-to-video-synthesis",
            "model": {"type": kind, "model_args": model_args, "model_cfg": model_cfg}, "pipeline": {"type": kind},
            "t2v": ours}


class Run:
    """AdamW with warm-up and cosine decay over networks, their moving averages, and a state file to go on from."""

    def __init__(self, name: str, nets: dict[str, nn.Module], total: int, lr: float) -> None:
        self.path, self.nets, self.total, self.lr = RUN / f"{name}.pt", nets, total, lr
        self.averages = {key: copy.deepcopy(net).requires_grad_(False) for key, net in nets.items()}
        self.weights = [p for net in nets.values() for p in net.parameters()]
        self.optimizer = torch.optim.AdamW(self.weights, lr=lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
        self.done, self.seen, self.began = 0, [], time.time()
        if self.path.exists():
            self.restore(torch.load(self.path, weights_only=True))

    def steps(self) -> Iterator[tuple[int, np.random.Generator]]:
        """The steps still to do, each with its own random numbers, so that a resumed run repeats none."""
        for step in range(self.done, self.total):
            torch.manual_seed(step)
            yield step, np.random.default_rng([3, step])

    def step(self, step: int, loss: Tensor, **shown: float) -> None:
        warm = min(1.0, (step + 1) / 200)
        rate = self.lr * warm * (0.03 + 0.97 * (1 + math.cos(math.pi * step / self.total)) / 2)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        decay = min(0.999, (1 + step) / (10 + step))
        for key, net in self.nets.items():
            averaged = list(self.averages[key].parameters())
            torch._foreach_lerp_(averaged, [p.detach() for p in net.parameters()], 1 - decay)
        self.seen.append((loss.item(), *shown.values()))
        if (step + 1) % 100 == 0:
            means = [round(float(value), 4) for value in np.mean(self.seen, axis=0)]
            print(self.path.stem, step + 1, dict(zip(["loss", *shown], means, strict=True)),
                  f"{time.time() - self.began:.0f} s", flush=True)
            self.seen = []
        if (step + 1) % 500 == 0:
            self.save(step + 1)

    def save(self, done: int) -> None:
        state = {"done": done, "optimizer": self.optimizer.state_dict(),
                 "nets": {key: net.state_dict() for key, net in self.nets.items()},
                 "averages": {key: net.state_dict() for key, net in self.averages.items()}}
        torch.save(state, part := self.path.with_suffix(".part"))
        part.replace(self.path)

    def restore(self, state: dict[str, Any]) -> None:
        self.done = state["done"]
        self.optimizer.load_state_dict(state["optimizer"])
        for key in self.nets:
            self.nets[key].load_state_dict(state["nets"][key])
            self.averages[key].load_state_dict(state["averages"][key])


def restored(run: str, key: str, net: Any) -> Any:
    """`net` with the averaged weights of a run."""
    net.load_state_dict(torch.load(RUN / f"{run}.pt", weights_only=True)["averages"][key])
    return net.eval().requires_grad_(False)


STAGES = {"autoencoder": train_autoencoder, "latents": encode_films, "diffusion": train_diffusion, "export": export}

if __name__ == "__main__":
    main()

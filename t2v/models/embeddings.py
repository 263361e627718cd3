"""Textual inversion (Gal et al. 2022): a word whose vectors were learnt, as files for the text tower of SD 2.x.

    string_to_param: {"*": n d}     web UIs, .pt
    {"<token>": d or n d}           diffusers, .bin and .safetensors
    emb_params: n d                 newer trainers, .safetensors
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from t2v.errors import ModelError, RequestError
from t2v.models.checkpoint import read
from t2v.models.text import TextTower

WIDTHS = {768: "Stable Diffusion 1.x", 1280: "Stable Diffusion XL"}


def read_embedding(path: Path, width: int, most: int) -> Tensor:
    """The vectors n d of an embedding, d = `width` and n at most `most`.

    ModelError where the file holds none; RequestError about the prompt where they are for another text encoder.
    """
    tensors = {name: tensor for name, tensor in read(path).items() if tensor.is_floating_point()}
    if "clip_g" in tensors:
        tensors = {"clip_g": tensors["clip_g"]}
    elif "emb_params" in tensors:
        tensors = {"emb_params": tensors["emb_params"]}
    if len(tensors) != 1:
        raise ModelError(path, f"holds {len(tensors)} tensors where an embedding has one", "Choose another file")
    (vectors,) = tensors.values()
    vectors = vectors.reshape(1, -1) if vectors.ndim == 1 else vectors
    if vectors.ndim != 2 or not bool(vectors.isfinite().all()):
        raise ModelError(path, "holds no vectors of numbers, so it is no embedding", "Choose another file")
    count, own = vectors.shape
    if own != width:
        kind = f" of {WIDTHS[own]}" if own in WIDTHS else ""
        raise RequestError("prompt", f"the embedding {path.stem!r} is for the text encoder{kind}, {own} wide; "
                                     f"this model's is {width} wide. Leave the word out")
    if count > most:
        raise RequestError("prompt", f"the embedding {path.stem!r} has {count} vectors; at most {most} can be read")
    return vectors


@contextmanager
def taught(tower: TextTower, vectors: Tensor | None) -> Iterator[None]:
    """`tower` with `vectors` n d behind those of its vocabulary, for the time of a `with` block."""
    table = tower.token_embedding.weight
    kept = table.data
    try:
        if vectors is not None:
            table.data = torch.cat([kept, vectors.to(kept.device, kept.dtype)])
        yield
    finally:
        table.data = kept

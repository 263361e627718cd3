"""What a LoRA is for that does not fit, as far as its names and shapes tell."""

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

NAMES = {  # the first that occurs in one of the names
    r"motion_modules?[._]": "AnimateDiff",
    r"(double|single)_blocks|single_transformer_blocks": "Flux or HunyuanVideo",
    r"joint_blocks|joint_transformer|context_block": "Stable Diffusion 3",
    r"lora_te[23]_|text_encoder_2\.|add_embedding|label_emb": "Stable Diffusion XL",
    r"(^|[._])blocks[._]\d+[._](self|cross)_attn": "Wan",
}
WIDTHS = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}
CROSS = re.compile(r".*attn2[._](processor\.)?to_[kv]\b.*(down|lora_A).*|.*attn2_to_[kv]\.lora_down.*")
GUIDANCE = 256  # width of T2V-Turbo's embedding of the guidance


def purpose(tensors: Mapping[str, Tensor], context_dim: int) -> str:
    """The kind of model that a file of names is for, in words; "" where nothing gives it away."""
    for pattern, kind in NAMES.items():
        if any(re.search(pattern, name) for name in tensors):
            return kind
    widths = {int(tensor.shape[1]) for name, tensor in tensors.items() if CROSS.fullmatch(name) and tensor.ndim > 1}
    widths -= {int(tensor.shape[1]) for name, tensor in tensors.items() if "temp_" in name and tensor.ndim > 1}
    width = next((width for width in widths if width in WIDTHS), max(widths, default=context_dim))
    if width == context_dim:
        return ""
    return f"{WIDTHS.get(width, 'another model')}, which reads text {width} wide; this model reads {context_dim}"


def turbo(pairs: Sequence[tuple[Tensor, Tensor]]) -> bool:
    """Whether a list of pairs is T2V-Turbo's: one of them turns the embedding of the guidance into one of time.

    What this layer was before training was drawn at random, and is in no file. So T2V-Turbo cannot be rebuilt.
    """
    return any(down.ndim == 2 and down.shape[1] == GUIDANCE and up.shape[0] != GUIDANCE for up, down in pairs[:8])

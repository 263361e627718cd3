"""What other programs call the layers of our networks.

Each network has two families of names: those of the published files, which are ours, and those of diffusers and
transformers. Layers are listed in the order in which diffusers registers them, because some LoRA files know no
names and rely on that order.
"""

from collections.abc import Iterator

from torch import Tensor, nn

from t2v.models.text import TextConfig
from t2v.models.unet import UNetConfig

RES_BLOCK = {
    "in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2", "out_layers.3": "conv2", "skip_connection": "conv_shortcut",
}
TEXT_BLOCK = {"attn.out_proj": "self_attn.out_proj", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}


def unet_layers(unet: nn.Module, config: UNetConfig) -> Iterator[tuple[str, str]]:
    """(our name, diffusers' name) of every layer of a UNet3D that has a matrix or a kernel."""
    weights = [name.removesuffix(".weight") for name, weight in unet.named_parameters() if is_matrix(name, weight)]
    for ours, theirs in unet_parts(config):  # "temopral_conv" and an upsampler's "conv" are parts by themselves
        for layer in weights:
            inside = layer.removeprefix(ours).removeprefix(".")
            if layer == ours:
                yield layer, theirs
            elif layer.startswith(ours + ".") and not f"{inside}.".startswith(("temopral_conv.", "conv.")):
                yield layer, f"{theirs}.{RES_BLOCK.get(inside, inside)}"


def is_matrix(name: str, weight: Tensor) -> bool:
    return name.endswith(".weight") and weight.ndim > 1


def unet_parts(config: UNetConfig) -> Iterator[tuple[str, str]]:
    """(our prefix, diffusers' prefix) of every part of the UNet; the temporal convolutions of a block by themselves."""
    yield "input_blocks.0.0", "conv_in"
    yield "time_embed.0", "time_embedding.linear_1"
    yield "time_embed.2", "time_embedding.linear_2"
    yield "input_blocks.0.1", "transformer_in"
    levels, blocks = len(config.dim_mult), config.res_blocks
    for level in range(levels):
        first = 1 + level * (blocks + 1)
        yield from stage([f"input_blocks.{first + i}" for i in range(blocks)], f"down_blocks.{level}")
        yield f"input_blocks.{first + blocks}.op", f"down_blocks.{level}.downsamplers.0.conv"
    for level in range(levels):
        first = level * (blocks + 1)
        yield from stage([f"output_blocks.{first + i}" for i in range(blocks + 1)], f"up_blocks.{level}")
        for place in (1, 2, 3):  # behind whatever transformers the block has
            yield f"output_blocks.{first + blocks}.{place}.conv", f"up_blocks.{level}.upsamplers.0.conv"
    yield "middle_block.0", "mid_block.resnets.0"
    yield "middle_block.3", "mid_block.resnets.1"
    yield "middle_block.0.temopral_conv", "mid_block.temp_convs.0"
    yield "middle_block.3.temopral_conv", "mid_block.temp_convs.1"
    yield "middle_block.1", "mid_block.attentions.0"
    yield "middle_block.2", "mid_block.temp_attentions.0"
    yield "out.0", "conv_norm_out"
    yield "out.2", "conv_out"


def stage(blocks: list[str], theirs: str) -> Iterator[tuple[str, str]]:
    """The parts of one level: ours go through the blocks one by one, theirs through all parts of a kind."""
    kinds = {"0": "resnets", "0.temopral_conv": "temp_convs", "1": "attentions", "2": "temp_attentions"}
    for part, kind in kinds.items():
        for number, block in enumerate(blocks):
            yield f"{block}.{part}", f"{theirs}.{kind}.{number}"


def text_layers(config: TextConfig) -> Iterator[tuple[str, str, int | None]]:
    """(our weight, transformers' layer, its third) of the text tower: q, k and v are thirds of our `in_proj_weight`."""
    yield "token_embedding.weight", "embeddings.token_embedding", None
    yield "positional_embedding", "embeddings.position_embedding", None
    for number in range(config.layers):
        ours, theirs = f"transformer.resblocks.{number}", f"encoder.layers.{number}"
        for letter in "kvq":  # in this order they are registered
            yield f"{ours}.attn.in_proj_weight", f"{theirs}.self_attn.{letter}_proj", "qkv".index(letter)
        for inside, their_inside in TEXT_BLOCK.items():
            yield f"{ours}.{inside}.weight", f"{theirs}.{their_inside}", None

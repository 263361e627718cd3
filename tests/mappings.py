"""The published weights under the names of diffusers and transformers, written down apart from the package's own maps.

Names are taken apart at their dots, so any number of levels and blocks is mapped.
"""

from collections.abc import Iterator, Mapping

from torch import Tensor

from t2v.models.autoencoder import AutoencoderConfig
from t2v.models.unet import UNetConfig

State = Mapping[str, Tensor]

RES_BLOCK = {
    "in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2", "out_layers.3": "conv2", "skip_connection": "conv_shortcut",
}
TEXT_BLOCK = {
    "ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
}
VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


def unet_to_diffusers(state: State, config: UNetConfig) -> dict[str, Tensor]:
    """For UNet3DConditionModel; kernels of length 1 along time become plain matrices."""
    matrices = ("proj_in.weight", "proj_out.weight")
    return {
        unet_key(key, config): value.flatten(1) if key.endswith(matrices) else value for key, value in state.items()
    }


def unet_key(key: str, config: UNetConfig) -> str:
    """What UNet3DConditionModel calls `key`."""
    per_level = config.res_blocks + 1
    match key.split("."):
        case ["time_embed", index, leaf]:
            return f"time_embedding.linear_{1 + int(index) // 2}.{leaf}"
        case ["input_blocks", "0", "0", leaf]:
            return f"conv_in.{leaf}"
        case ["input_blocks", "0", "1", *rest]:
            return ".".join(["transformer_in", *rest])
        case ["input_blocks", index, "op", leaf]:
            return f"down_blocks.{(int(index) - 1) // per_level}.downsamplers.0.conv.{leaf}"
        case ["input_blocks", index, child, *rest]:
            level, stage = divmod(int(index) - 1, per_level)
            return f"down_blocks.{level}.{_unet_layer(child, stage, rest)}"
        case ["middle_block", child, *rest]:
            return f"mid_block.{_unet_layer('0', 1, rest) if child == '3' else _unet_layer(child, 0, rest)}"
        case ["output_blocks", index, _, "conv", leaf]:
            return f"up_blocks.{int(index) // per_level}.upsamplers.0.conv.{leaf}"
        case ["output_blocks", index, child, *rest]:
            level, stage = divmod(int(index), per_level)
            return f"up_blocks.{level}.{_unet_layer(child, stage, rest)}"
        case ["out", index, leaf]:
            return f"conv_{'norm_' if index == '0' else ''}out.{leaf}"
    raise KeyError(key)


def _unet_layer(child: str, stage: int, rest: list[str]) -> str:
    match child, rest:
        case "0", ["temopral_conv", *inside]:
            return ".".join(["temp_convs", str(stage), *inside])
        case "0", [*layer, leaf]:
            return f"resnets.{stage}.{RES_BLOCK['.'.join(layer)]}.{leaf}"
    return ".".join([{"1": "attentions", "2": "temp_attentions"}[child], str(stage), *rest])


def autoencoder_to_diffusers(state: State, config: AutoencoderConfig) -> dict[str, Tensor]:
    """For diffusers' AutoencoderKL; the 1x1 convolutions of its attention become plain matrices."""
    def matrix(key: str, value: Tensor) -> bool:
        return ".attn_1." in key and value.ndim == 4

    return {
        autoencoder_key(key, config): value.flatten(1) if matrix(key, value) else value for key, value in state.items()
    }


def autoencoder_key(key: str, config: AutoencoderConfig) -> str:
    """What diffusers' AutoencoderKL calls `key`."""
    match key.split("."):
        case [side, "down" | "up" as way, level, *rest]:
            number = int(level) if way == "down" else len(config.ch_mult) - 1 - int(level)
            return f"{side}.{way}_blocks.{number}.{_autoencoder_layer(rest)}"
        case [side, "mid", "attn_1", layer, leaf]:
            return f"{side}.mid_block.attentions.0.{VAE_ATTENTION[layer]}.{leaf}"
        case [side, "mid", block, *rest]:
            return f"{side}.mid_block.{_autoencoder_layer(['block', str(int(block[-1]) - 1), *rest])}"
    return key.replace("norm_out", "conv_norm_out")


def _autoencoder_layer(rest: list[str]) -> str:
    match rest:
        case ["block", index, layer, leaf]:
            return f"resnets.{index}.{layer.replace('nin_shortcut', 'conv_shortcut')}.{leaf}"
        case ["downsample" | "upsample" as change, "conv", leaf]:
            return f"{change}rs.0.conv.{leaf}"
    raise KeyError(".".join(rest))


def text_to_transformers(state: State, layers: int) -> dict[str, Tensor]:
    """For CLIPTextModel of transformers 5 with the first `layers` blocks; q, k and v are taken apart."""
    return dict(pair for key, value in state.items() for pair in _text_entries(key, value, layers))


def _text_entries(key: str, value: Tensor, layers: int) -> Iterator[tuple[str, Tensor]]:
    match key.split("."):
        case ["positional_embedding"]:
            yield "embeddings.position_embedding.weight", value
        case ["token_embedding", "weight"]:
            yield "embeddings.token_embedding.weight", value
        case ["ln_final", leaf]:
            yield f"final_layer_norm.{leaf}", value
        case ["transformer", "resblocks", index, *_] if int(index) >= layers:
            return
        case ["transformer", "resblocks", index, "attn", "in_proj_weight" | "in_proj_bias" as joined]:
            for name, part in zip("qkv", value.chunk(3), strict=True):
                yield f"encoder.layers.{index}.self_attn.{name}_proj.{joined.removeprefix('in_proj_')}", part
        case ["transformer", "resblocks", index, *layer, leaf]:
            yield f"encoder.layers.{index}.{TEXT_BLOCK['.'.join(layer)]}.{leaf}", value
        case _:
            raise KeyError(key)

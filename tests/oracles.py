"""Other people's implementations, which the tests compare with."""

from importlib.machinery import SourceFileLoader
from importlib.metadata import distribution
from types import ModuleType
from typing import Any

from t2v.models.autoencoder import AutoencoderConfig
from t2v.models.unet import UNetConfig


def modelscope_module(name: str) -> ModuleType:
    """`unet_sd`, `autoencoder` or `diffusion` of modelscope's text2video, without importing the package.

    The package wants much that these files do not need.
    """
    path = distribution("modelscope").locate_file(f"modelscope/models/multi_modal/video_synthesis/{name}.py")
    module = ModuleType(name)
    SourceFileLoader(name, str(path)).exec_module(module)
    return module


def unet_arguments(config: UNetConfig) -> dict[str, Any]:
    """What modelscope's UNetSD is made with."""
    return {
        "in_dim": config.in_dim, "dim": config.dim, "y_dim": 768, "context_dim": config.context_dim,
        "out_dim": config.out_dim, "dim_mult": list(config.dim_mult), "num_heads": config.num_heads,
        "head_dim": config.head_dim, "num_res_blocks": config.res_blocks, "attn_scales": list(config.attn_scales),
        "temporal_attention": config.temporal_attention}


def autoencoder_arguments(config: AutoencoderConfig) -> tuple[dict[str, Any], int]:
    """What modelscope's AutoencoderKL is made with: its shape, and the width of its latents."""
    return {
        "double_z": True, "z_channels": config.z_channels, "resolution": 256, "in_channels": 3, "out_ch": 3,
        "ch": config.ch, "ch_mult": list(config.ch_mult), "num_res_blocks": config.num_res_blocks,
        "attn_resolutions": []}, config.embed_dim

"""The weights of our networks in the implementations that others published: modelscope, diffusers, transformers.

The UNets and autoencoders share their memory with the network they are made from.
"""

from typing import Any

import torch
from diffusers import AutoencoderKL as DiffusersAutoencoder
from diffusers import UNet3DConditionModel
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from transformers import CLIPTextConfig, CLIPTextModel

from t2v.models.autoencoder import AutoencoderKL
from t2v.models.text import TextTower
from t2v.models.unet import UNet3D
from tests.mappings import autoencoder_to_diffusers, text_to_transformers, unet_to_diffusers
from tests.oracles import autoencoder_arguments, modelscope_module, unet_arguments


def modelscope_unet(net: UNet3D) -> Any:
    """ModelScope's own UNet with the weights of `net`; its decoder always reads a context 1024 wide."""
    return with_modelscope(net, modelscope_module("unet_sd"))


def with_modelscope(net: UNet3D, module: Any) -> Any:
    """As `modelscope_unet`, from a `module` that a test may have changed."""
    with torch.device("meta"):
        other = module.UNetSD(**unet_arguments(net.config))
    other.load_state_dict(net.state_dict(), assign=True)
    return other.eval()


def diffusers_unet(net: UNet3D) -> Any:
    """diffusers' UNet with the weights of `net`."""
    config = net.config
    attends = [0.5**level in config.attn_scales for level in range(len(config.dim_mult))]
    down = ["CrossAttnDownBlock3D" if yes else "DownBlock3D" for yes in attends]
    up = ["CrossAttnUpBlock3D" if yes else "UpBlock3D" for yes in reversed(attends)]
    with torch.device("meta"):
        other: Any = UNet3DConditionModel(  # type: ignore[no-untyped-call]
            in_channels=config.in_dim, out_channels=config.out_dim, layers_per_block=config.res_blocks,
            block_out_channels=tuple(config.dim * mult for mult in config.dim_mult),
            down_block_types=tuple(down), up_block_types=tuple(up),
            cross_attention_dim=config.context_dim, attention_head_dim=config.head_dim)
        other.transformer_in = TransformerTemporalModel(  # made with eight heads whatever the configuration says
            config.num_heads, config.head_dim, in_channels=config.dim, num_layers=1)
    other.load_state_dict(unet_to_diffusers(net.state_dict(), config), assign=True)
    return other.eval()


def modelscope_autoencoder(net: AutoencoderKL) -> Any:
    """ModelScope's own autoencoder with the weights of `net`."""
    with torch.device("meta"):
        other = modelscope_module("autoencoder").AutoencoderKL(*autoencoder_arguments(net.config))
    other.load_state_dict(net.state_dict(), assign=True)
    return other.eval()


def diffusers_autoencoder(net: AutoencoderKL) -> Any:
    """diffusers' autoencoder with the weights of `net`."""
    config = net.config
    levels = len(config.ch_mult)
    with torch.device("meta"):
        other: Any = DiffusersAutoencoder(  # type: ignore[no-untyped-call]
            down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=tuple(config.ch * mult for mult in config.ch_mult),
            layers_per_block=config.num_res_blocks, latent_channels=config.z_channels)
    other.load_state_dict(autoencoder_to_diffusers(net.state_dict(), config), assign=True)
    return other.eval()


def transformers_text(net: TextTower) -> Any:
    """transformers' CLIP text model with the used blocks of `net`."""
    config = net.config
    used = config.layers - config.skip_last
    other: Any = CLIPTextModel(CLIPTextConfig(
        vocab_size=config.vocab_size, hidden_size=config.width, intermediate_size=4 * config.width,
        num_hidden_layers=used, num_attention_heads=config.heads, max_position_embeddings=config.context_length,
        hidden_act="gelu", bos_token_id=0, eos_token_id=1, pad_token_id=0))
    prefix = "text_model." if hasattr(other, "text_model") else ""  # transformers 4 had one level more
    other.load_state_dict({prefix + key: value for key, value in text_to_transformers(net.state_dict(), used).items()})
    return other.eval()

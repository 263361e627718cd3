"""Pictures that have come to nothing."""

import pytest
import torch

from t2v.latents import fault
from t2v.models.autoencoder import AutoencoderConfig, AutoencoderKL
from tests.networks import normal, randomised


@pytest.mark.parametrize("spoilt", [float("nan"), float("inf"), float("-inf")])
def test_one_pixel_that_is_no_number_is_seen(spoilt: float) -> None:
    picture = normal(3, 8, 8)
    assert fault(picture) == ""
    picture[1, 2, 3] = spoilt
    assert fault(picture) == "not numbers"


def test_flat_is_what_does_not_vary_by_half_a_grey_level() -> None:
    picture = torch.tensor([0.5, -0.2, 0.1])[:, None, None].repeat(1, 8, 8)  # of one colour, which is no grey
    assert fault(picture) == "flat"
    picture[2, 3, 3] += 0.4 / 127.5
    assert fault(picture) == "flat"
    picture[2, 3, 3] += 0.2 / 127.5
    assert fault(picture) == ""


def test_a_decoder_that_half_precision_does_not_suffice_for_is_seen() -> None:
    net = randomised(AutoencoderKL(AutoencoderConfig(ch=32, ch_mult=(1, 1), num_res_blocks=1)))
    net.decoder.conv_in.weight.mul_(1e5)  # norms take this back, where numbers beyond 65504 are numbers
    z = normal(1, 4, 8, 8)
    assert fault(net.decode(z)[0]) == ""
    assert fault(net.decode(z.bfloat16())[0]) == ""
    assert fault(net.decode(z.half())[0]) == "not numbers"

"""Frequencies, softmax scale and rotation of the rotary positions."""

import json

import pytest
import torch

from k2lite.config_json import config_from_json
from k2lite.rope import Rope, inverse_frequencies, rotate, softmax_scale

# Softmax scale and the frequencies of pairs 8, 9, 12, 20 and 31, computed from the published configurations.
EXPECTED = {
    "moonlight-16b-a3b": (
        0.0721687836,
        0.0668740347,
        0.0476886146,
        0.0172936339,
        1.15649495e-3,
        2.80461209e-5,
    ),
    "kimi-k2-instruct": (
        0.1308607999,
        0.0668740347,
        0.0476886146,
        0.0172936339,
        3.61404673e-5,
        8.76441277e-7,
    ),
    "kimi-k2-thinking": (
        0.1446796258,
        0.0668740347,
        0.0476886146,
        0.0172936339,
        1.80702336e-5,
        4.38220638e-7,
    ),
    "kimi-k2.5": (0.1446796258, 0.0668740347, 0.0437766574, 0.01161916, 1.80702336e-5, 4.38220638e-7),
    "deepseek-v3": (0.1352337789, 0.1, 0.0749894157, 0.0268793609, 7.90569407e-4, 3.33380353e-6),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_frequencies_follow_yarn(shared_data, name):
    config = config_from_json(json.loads((shared_data / "kimi" / "configs" / f"{name}.json").read_text()))
    scale, *expected = EXPECTED[name]
    assert softmax_scale(config) == pytest.approx(scale, rel=1e-8)
    frequencies = inverse_frequencies(config.qk_rope_dim, config.rope_theta, config.yarn)
    torch.testing.assert_close(frequencies[[8, 9, 12, 20, 31]], torch.tensor(expected), rtol=1e-6, atol=0)


def test_rotation_is_a_complex_product_on_neighbouring_pairs():
    x = torch.randn(5, 3, 8, generator=torch.Generator().manual_seed(0))
    angles = torch.arange(5)[:, None] * torch.tensor([1.0, 0.5, 0.1, 0.01])
    expected = torch.view_as_complex(x.view(5, 3, 4, 2)) * torch.polar(torch.ones(5, 1, 4), angles[:, None])
    torch.testing.assert_close(rotate(x, (angles.cos(), angles.sin())), torch.view_as_real(expected).view(5, 3, 8))


def test_rotations_depend_on_the_start_position(shared_data):
    config = config_from_json(json.loads((shared_data / "kimi" / "configs" / "kimi-k2-instruct.json").read_text()))
    rope = Rope(config)
    whole = rope.rotations(0, 10)
    # Out of tables that are there, of new ones further on, and of earlier positions than those.
    for start, found in ((6, rope.rotations(6, 4)), (6, Rope(config).rotations(6, 4))):
        torch.testing.assert_close(whole[0][start:], found[0], rtol=0, atol=0)
        torch.testing.assert_close(whole[1][start:], found[1], rtol=0, atol=0)
    far, again = rope.rotations(5000, 3), rope.rotations(2, 4)
    torch.testing.assert_close(far[0], Rope(config).rotations(4990, 13)[0][10:], rtol=0, atol=0)
    torch.testing.assert_close(again[1], whole[1][2:6], rtol=0, atol=0)

"""Noise is a function of a seed alone; uint8 is round-half-up of clamped values."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evalsuite.sampling.noise import draw_noise, sample_generators
from evalsuite.sampling.pixels import UINT8_RULES, to_uint8_half_up
from evalsuite.seeding import SEED_LIMIT

SEEDS = st.integers(0, SEED_LIMIT - 1)


def test_seeds_repeat_where_the_limit_says() -> None:
    """The reason for the limit: torch's CPU generator takes the low 32 bits alone."""
    at_limit, at_zero = (draw_noise(sample_generators([s]), (1, 2, 2)) for s in (SEED_LIMIT, 0))
    last = draw_noise(sample_generators([SEED_LIMIT - 1]), (1, 2, 2))
    assert torch.equal(at_limit, at_zero)
    assert not torch.equal(last, at_zero)


@settings(deadline=None)
@given(st.lists(SEEDS, min_size=1, max_size=6), st.integers(1, 4), st.integers(1, 9))
def test_noise_is_the_call_that_everyone_makes(seeds: list[int], channels: int, side: int) -> None:
    shape = (channels, side, side + 1)
    noise = draw_noise(sample_generators(seeds), shape)
    assert noise.dtype == torch.float32
    for row, seed in zip(noise, seeds, strict=True):
        generator = torch.Generator("cpu").manual_seed(seed)
        assert torch.equal(row, torch.randn(shape, generator=generator, dtype=torch.float32))


@settings(deadline=None)
@given(SEEDS, st.lists(SEEDS, max_size=4))
def test_noise_depends_on_nothing_else(seed: int, company: list[int]) -> None:
    """Company, the global generator and earlier draws of others do not matter."""
    alone = draw_noise(sample_generators([seed]), (3, 4, 4))
    torch.manual_seed(company[0] if company else 1)
    torch.randn(5)
    crowd = draw_noise(sample_generators([*company, seed]), (3, 4, 4))
    assert torch.equal(crowd[-1], alone[0])


def test_a_second_draw_goes_on() -> None:
    generators = sample_generators([9])
    first, second = (draw_noise(generators, (3, 8, 8)) for _ in range(2))
    assert not torch.equal(first, second)
    generator = torch.Generator("cpu").manual_seed(9)
    torch.randn((3, 8, 8), generator=generator)
    assert torch.equal(second[0], torch.randn((3, 8, 8), generator=generator))


def one_row(values: list[float]) -> torch.Tensor:
    """Values as one image of three equal channels."""
    return torch.tensor(values, dtype=torch.float32).reshape(1, 1, 1, -1).repeat(1, 3, 1, 1)


def test_every_grey_level_begins_where_the_rule_says() -> None:
    """Level g begins at (g - 0.5) / 127.5 - 1; a hair below it is g - 1."""
    for level in range(1, 256):
        edge = (level - 0.5) / 127.5 - 1
        below, above = edge - 1e-5, edge + 1e-5
        grey = to_uint8_half_up(one_row([below, above]))[0, 0, :, 0].tolist()
        assert grey == [level - 1, level]


def test_exact_halves_round_up_and_values_outside_are_clamped() -> None:
    """(x + 1) * 127.5 = 0.5 and 254.5 are exact in float32 for no x, 127.5 is: x = 0."""
    values = [0.0, -1.0, 1.0, -7.0, 7.0, -1.0 + 1e-7, 1.0 - 1e-7, 3e38, -3e38]
    grey = to_uint8_half_up(one_row(values))[0, 0, :, 0].tolist()
    assert grey == [128, 0, 255, 0, 255, 0, 255, 255, 0]


@given(st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=30))
def test_the_rule_is_floor_of_the_clamped_value(values: list[float]) -> None:
    """In float32 arithmetic."""
    grey = to_uint8_half_up(one_row(values))[0, 0, :, 0].tolist()
    f = np.float32
    scaled = [(f(v) + f(1)) * f(127.5) + f(0.5) for v in values]
    assert grey == [math.floor(min(max(float(s), 0.0), 255.0)) for s in scaled]


def test_channels_come_last() -> None:
    x = torch.tensor([-1.0, 0.0, 1.0]).reshape(1, 3, 1, 1).expand(2, 3, 4, 5)
    pixels = to_uint8_half_up(x)
    assert pixels.shape == (2, 4, 5, 3)
    assert pixels.dtype == torch.uint8
    assert pixels.is_contiguous()
    assert pixels[1, 2, 3].tolist() == [0, 128, 255]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("rule", UINT8_RULES.values(), ids=UINT8_RULES)
def test_nan_and_infinities_are_refused(rule: object, bad: float) -> None:
    """They would become an arbitrary colour."""
    x = torch.zeros(1, 3, 2, 2)
    x[0, 1, 0, 1] = bad
    with pytest.raises(ValueError, match="NaN"):
        rule(x)

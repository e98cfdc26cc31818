"""Guidance: its formula, where it acts, what it costs, and what may be left out."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from evalsuite.config import SamplingSettings
from evalsuite.sampling.grids import time_grid
from evalsuite.sampling.guidance import Denoiser, Guidance, GuidedVelocity
from evalsuite.sampling.noise import draw_noise, sample_generators
from evalsuite.sampling.pixels import to_uint8_half_up
from evalsuite.sampling.sampler import (
    Conditions,
    Sampled,
    count_nfe,
    guidance_of,
    sample_batch,
    solve,
)

NOISE = draw_noise(sample_generators(range(4)), (3, 8, 8))
LABELS = torch.tensor([0, 3, 1, 2])
NULL = torch.full_like(LABELS, 4)


class PerSample:
    """A tiny denoiser that treats each sample alone, whatever the batch."""

    def __init__(self) -> None:
        self.conditions: list[list[int]] = []
        self.passes = 0

    def __call__(self, x_BCHW: Tensor, t_B: Tensor, condition: Tensor) -> Tensor:
        self.conditions.append(condition.tolist())
        self.passes += 1
        weight = (condition.float() * 0.37 - 0.5)[:, None, None, None]
        return torch.sin(x_BCHW) * weight - x_BCHW * t_B[:, None, None, None]


def settings(**changes: object) -> SamplingSettings:
    """Guidance on a part of the times."""
    fields = {"solver": "euler", "num_steps": 10, "guidance_scale": 2.5}
    return SamplingSettings.model_validate(fields | {"guidance_interval": (0.1, 0.6)} | changes)


def test_the_formula_and_that_the_unconditional_half_comes_first() -> None:
    denoiser = PerSample()
    velocity = GuidedVelocity(denoiser, LABELS, NULL, Guidance(3.0))
    t = torch.tensor(0.5)
    t_B = t.expand(4)
    uncond, cond = PerSample()(NOISE, t_B, NULL), PerSample()(NOISE, t_B, LABELS)
    assert torch.equal(velocity(NOISE, t), uncond + 3.0 * (cond - uncond))
    assert denoiser.conditions == [[4, 4, 4, 4, 0, 3, 1, 2]]
    assert velocity.nfe == 2


def test_scale_one_is_the_conditional_velocity() -> None:
    """At half the cost."""
    velocity = GuidedVelocity(PerSample(), LABELS, NULL, Guidance(1.0))
    t = torch.tensor(0.5)
    assert torch.equal(velocity(NOISE, t), PerSample()(NOISE, t.expand(4), LABELS))
    assert velocity.nfe == 1


def test_scale_zero_is_the_unconditional_velocity() -> None:
    velocity = GuidedVelocity(PerSample(), LABELS, NULL, Guidance(0.0))
    t = torch.tensor(0.5)
    torch.testing.assert_close(velocity(NOISE, t), PerSample()(NOISE, t.expand(4), NULL))


@given(st.floats(0, 0.98), st.floats(0.01, 1))
def test_ends_are_compared_in_float32(low: float, width: float) -> None:
    """Just inside, on, and just outside of either bound, as float32 sees them."""
    high = min(low + width, 1.0)
    interval = (low, high)
    for bound, inwards in ((low, np.inf), (high, -np.inf)):
        on = np.float32(bound)
        inside, outside = (
            np.nextafter(on, np.float32(inwards)),
            np.nextafter(on, np.float32(-inwards)),
        )
        if not np.float32(low) < inside < np.float32(high):
            continue
        for ends, acts in (("open", False), ("closed", True)):
            guidance = Guidance(2.0, interval, ends)
            assert guidance.acts_at(torch.tensor(on)) is acts
            assert guidance.acts_at(torch.tensor(inside)) is True
            assert guidance.acts_at(torch.tensor(outside)) is False


def test_the_step_at_a_tenth_of_100_is_not_guided() -> None:
    """PixNerd's interval (0.1, 1) on 100 even steps guides 89; float32 0.0999999 is outside."""
    guidance = Guidance(3.5, (0.1, 1.0), "open")
    guided = [i for i, t in enumerate(time_grid(100)[:-1]) if guidance.acts_at(t)]
    assert guided == list(range(11, 100))


def test_an_open_whole_interval_leaves_the_first_step_unguided() -> None:
    times = time_grid(5)
    assert [Guidance(2.0).acts_at(t) for t in times] == [False, *[True] * 4, False]
    assert all(Guidance(2.0, ends="closed").acts_at(t) for t in times)


@pytest.mark.parametrize("solver", ["euler", "heun", "heun_reuse", "adams"])
def test_leaving_out_unguided_passes_is_the_doubled_batch_to_rounding(solver: str) -> None:
    """For a denoiser that treats samples one by one; and it saves the passes outside.

    Where guidance acts the two are bit for bit the same. Where it does not, the doubled batch
    rounds uncond + 1 * (cond - uncond), as the original programs do, and the short one is cond.
    """
    order = {"order": 2} if solver == "adams" else {}
    images, costs, passes = [], [], []
    for skip in (True, False):
        chosen = settings(solver=solver, skip_unguided=skip, **order)
        denoiser = PerSample()
        velocity = GuidedVelocity(denoiser, LABELS, NULL, guidance_of(chosen))
        images.append(solve(chosen, velocity, NOISE, ()))
        costs.append(velocity.nfe)
        passes.append(denoiser.passes)
    torch.testing.assert_close(*images, rtol=0, atol=3e-6)
    assert costs[0] < costs[1] == 2 * passes[1]
    assert passes[0] == passes[1]


@pytest.mark.parametrize("t", [0.05, 0.3, 0.9])
def test_one_velocity_with_and_without_the_unguided_pass(t: float) -> None:
    """Bit for bit the formula of the one or the other."""
    time = torch.tensor(t)
    uncond, cond = (PerSample()(NOISE, time.expand(4), c) for c in (NULL, LABELS))
    short, doubled = (
        GuidedVelocity(PerSample(), LABELS, NULL, Guidance(2.5, (0.1, 0.6), "open", skip))(
            NOISE, time
        )
        for skip in (True, False)
    )
    if t == 0.3:
        assert torch.equal(short, doubled)
        assert torch.equal(short, uncond + 2.5 * (cond - uncond))
    else:
        assert torch.equal(short, cond)
        assert torch.equal(doubled, uncond + 1.0 * (cond - uncond))


def batch_of(
    denoiser: Denoiser, seeds: list[int], labels: list[int], chosen: SamplingSettings
) -> Sampled:
    """Images of 8 x 8 from seeds and labels, with 4 as the null label."""
    generators = sample_generators(seeds)
    given = torch.tensor(labels)
    conditions = Conditions(given, torch.full_like(given, 4))
    noise = draw_noise(generators, (3, 8, 8))
    return sample_batch(denoiser, conditions, noise, chosen, generators)


@pytest.mark.parametrize("solver", ["euler", "heun", "heun_reuse", "adams", "adams2_constant"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"guidance_scale": 1.0},
        {"guidance_scale": 1.0, "skip_unguided": False},
        {"guidance_interval": (0.0, 1.0), "interval_ends": "closed"},
        {"num_steps": 1},
        {"timeshift": 3.0, "last_step": 0.04},
    ],
    ids=str,
)
def test_count_nfe_is_what_a_real_batch_counts(solver: str, changes: dict[str, object]) -> None:
    """The number that `--dry-run` prints, against halves that a denoiser really saw."""
    order = {"order": 3} if solver == "adams" else {}
    chosen = settings(solver=solver, **changes, **order)
    denoiser = PerSample()
    batch = batch_of(denoiser, [1, 2], [0, 3], chosen)
    halves = sum(len(condition) for condition in denoiser.conditions) // 2
    assert count_nfe(chosen) == batch.nfe == halves


def test_a_batch_does_not_depend_on_the_samples_beside_it() -> None:
    """Seeds and labels decide an image; position and company do not (per-sample arithmetic)."""
    chosen = settings(solver="euler", step="sde")

    def images(seeds: list[int], labels: list[int]) -> np.ndarray:
        return to_uint8_half_up(batch_of(PerSample(), seeds, labels, chosen).x_BCHW).numpy()

    together = images([7, 8, 9], [0, 1, 2])
    np.testing.assert_array_equal(together[2:], images([9], [2]))
    np.testing.assert_array_equal(together[::-1], images([9, 8, 7], [2, 1, 0]))
    assert not np.array_equal(together[0], images([7], [1])[0])


def test_noise_scale_multiplies_the_initial_noise() -> None:
    """A denoiser that stands still gives the noise itself."""

    def still(x: Tensor, t_B: Tensor, condition: Tensor) -> Tensor:
        return torch.zeros_like(x)

    chosen = settings(noise_scale=0.25, guidance_scale=1.0)
    noise = torch.randn((3, 8, 8), generator=torch.Generator("cpu").manual_seed(3)) * 0.25
    assert torch.equal(batch_of(still, [3], [0], chosen).x_BCHW[0], noise)

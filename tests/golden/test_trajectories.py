"""Whole sampling runs of PixelGen and PixelDiT against the original programs.

Tolerances are those of the goldens' READMEs; an independent float32 implementation reaches 2.5e-5.
"""

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from golden.coefficients import check_coefficients, exact_weights_would_do
from golden.trajectories import Replay, network_of, replay, settings_of
from torch import Tensor

from evalsuite.sampling.pixels import to_uint8_half_up
from evalsuite.sampling.sampler import times_of
from evalsuite.sampling.solvers import adams_coefficients, adams_coefficients_float32

FINAL = 3e-4
FINAL_EXACT_WEIGHTS = {3: 1e-3, 4: 5e-3}  # upstream's float32 coefficients are inexact
FINAL_DPMPP = 2e-3  # division by 1 - tau near tau = 1
UINT8_SHARE = 0.01


def atol_of(run: dict[str, Any]) -> float:
    """The README's tolerance for a run."""
    if run["sampler"] == "dpmpp_2m_flow":
        return FINAL_DPMPP
    return FINAL


def test_pixelgen_class_runs(pixelgen_c2i_case: Any, fill: ModuleType) -> None:
    """Heun both ways, Euler and Adams, with the velocity clamp and the half-open interval."""
    check_runs("pixelgen-class", pixelgen_c2i_case, fill)


def test_pixelgen_text_runs(pixelgen_t2i_case: Any, fill: ModuleType) -> None:
    """Adams of orders 2 and 4, and Euler, on text features."""
    check_runs("pixelgen-text", pixelgen_t2i_case, fill)


def test_pixeldit_class_runs(pixeldit_c2i_case: Any, fill: ModuleType) -> None:
    """The two-step solver with constant coefficients, Euler and both Heuns."""
    check_runs("pixeldit-class", pixeldit_c2i_case, fill)


def test_pixeldit_text_runs(pixeldit_t2i_case: Any, fill: ModuleType) -> None:
    """DPM-Solver++ 2M over noise levels, through our time that runs the other way."""
    check_runs("pixeldit-text", pixeldit_t2i_case, fill)


def check_runs(family: str, case: Any, fill: ModuleType) -> None:
    """Times, every state at the probes, final image and uint8 of every run, guided both ways."""
    meta, z = case.meta, case.arrays()
    network = network_of(family, meta, z, fill)
    null_label = meta["config"].get("num_classes", -1)
    for k, run in enumerate(meta["runs"]):
        settings = settings_of(run, family, skip=False)
        times = times_of(settings)
        levels = 1 - times if run["sampler"] == "dpmpp_2m_flow" else times
        np.testing.assert_allclose(levels, z[f"run{k}_timesteps"], rtol=0, atol=1e-7)
        ours = replay(network, settings, z, null_label)
        check_against(ours, run, z, k)
        saved = replay(network, settings_of(run, family, skip=True), z, null_label)
        close(saved.x, z[f"run{k}_final"], atol_of(run))
        assert saved.nfe <= ours.nfe == 2 * len(ours.velocities)
        if run["sampler"] == "adam_lm":
            check_coefficients(times, run["order"], z[f"run{k}_coeffs"])
        if run["sampler"] == "adam_lm" and exact_weights_would_do(run, times):
            exact = settings.model_copy(update={"coefficients": None})
            atol = FINAL_EXACT_WEIGHTS.get(run["order"], FINAL)
            close(replay(network, exact, z, null_label).x, z[f"run{k}_final"], atol)


def check_against(ours: Replay, run: dict[str, Any], z: Any, k: int) -> None:
    """One run of ours against one of the original's."""
    atol = atol_of(run)
    close(ours.x, z[f"run{k}_final"], atol)
    uint8 = to_uint8_half_up(ours.x).permute(0, 3, 1, 2).numpy().astype(int)
    difference = np.abs(uint8 - z[f"run{k}_uint8"].astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() <= UINT8_SHARE
    places = torch.from_numpy(z["probe_idx"])
    if ours.states:
        states = torch.stack([*ours.states, ours.x]).flatten(1)
        close(states[:, places], z[f"run{k}_xprobe"], atol)
        if f"run{k}_xtraj" in z:
            close(torch.stack([*ours.states, ours.x]), z[f"run{k}_xtraj"], atol)
    if run["sampler"] in {"euler", "flow_dpm"}:
        velocities = torch.stack(ours.velocities).flatten(1)
        close(velocities[:, places], z[f"run{k}_vprobe"], atol)


def close(actual: Tensor, expected: Any, atol: float) -> None:
    """Largest absolute difference at most `atol`, with equal shapes."""
    assert tuple(actual.shape) == expected.shape
    np.testing.assert_allclose(actual.numpy(), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("order", [3, 4])
def test_float32_coefficients_are_the_ones_that_lose_digits(order: int) -> None:
    """On 100 even steps float32 cancellation is gross where float64 stays exact."""
    times = torch.linspace(0, 1, 101)
    exact = np.stack(adams_coefficients(times, order)[order:])
    np.testing.assert_allclose(exact, exact[:1].repeat(len(exact), 0), rtol=0, atol=1e-4)
    rounded = np.stack(adams_coefficients_float32(times, order)[order:])
    assert not (np.abs(rounded - exact) <= 0.05).all()

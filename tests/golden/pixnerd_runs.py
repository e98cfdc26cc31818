"""Runs of PixNerd's goldens, replayed with our solvers and checked against the original's.

Tolerances are those of the goldens' README: an independent float32 implementation reaches 1e-5 over
a trajectory.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evalsuite.sampling.grids import time_grid
from evalsuite.sampling.guidance import Denoiser, Guidance, GuidedVelocity
from evalsuite.sampling.noise import sample_generators
from evalsuite.sampling.pixels import to_uint8_half_up
from evalsuite.sampling.solvers import (
    STEPS,
    adams_coefficients,
    sample_adams,
    sample_euler,
    sample_heun,
    sample_heun_reuse,
)

FINAL = 2e-4
FINAL_HIGH_ORDER = 1e-3  # upstream's float32 coefficients of orders 3 and 4 are inexact
COEFFICIENTS = {1: 1e-6, 2: 1e-6, 3: 2e-3, 4: 2e-3}
TIMES = 1e-7
UINT8_SHARE = 0.002


def check_run(
    network: Denoiser, condition: Tensor, null: Tensor, noise: Tensor, case: Any, k: int
) -> None:
    """Grid, network times, number of evaluations, states on the way, final image and uint8."""
    z, run = case.arrays(), case.meta["runs"][k]
    recorder = Recorder(network)
    velocity = GuidedVelocity(recorder, condition, null, guidance_for(run, skip=False))
    x = integrate(run, velocity, noise)
    stored_times = z[f"run{k}_timesteps"]
    close(grid_of(run)[: len(stored_times)], stored_times, TIMES)
    assert len(stored_times) >= run["num_steps"]
    assert velocity.nfe == 2 * run["nfe"] == 2 * len(recorder.times)
    if f"run{k}_net_t" in z:
        np.testing.assert_allclose(recorder.times, z[f"run{k}_net_t"], rtol=0, atol=TIMES)
    if f"run{k}_coeffs" in z:
        check_coefficients(grid_of(run), run["order"], z[f"run{k}_coeffs"])
    atol = FINAL_HIGH_ORDER if run.get("order", 0) > 2 else FINAL
    close(x, z[f"run{k}_x_final"], atol)
    check_uint8(x, z[f"run{k}_uint8"])
    states = states_after_steps(run, recorder)
    if states is not None:
        every = torch.stack([*states, x]).flatten(1)
        close(every[:, torch.from_numpy(z[f"run{k}_probe_index"])], z[f"run{k}_probe"], atol)
        close(every.square().mean(1).sqrt(), z[f"run{k}_rms"], atol)
        if f"run{k}_x_traj" in z:
            close(torch.stack([*states, x]), z[f"run{k}_x_traj"], atol)


class Recorder:
    """The network of a run, with the states and times of every evaluation."""

    def __init__(self, network: Denoiser) -> None:
        self._network = network
        self.states: list[Tensor] = []
        self.times: list[float] = []

    def __call__(self, x_BCHW: Tensor, t_B: Tensor, condition: Tensor) -> Tensor:
        self.states.append(x_BCHW[: len(x_BCHW) // 2])
        self.times.append(float(t_B[0]))
        return self._network(x_BCHW, t_B, condition)


def guidance_for(run: dict[str, Any], *, skip: bool) -> Guidance:
    """Open interval where upstream has one; Heun and the port guide every step."""
    ends = "open" if "interval" in run else "closed"
    return Guidance(run["guidance"], tuple(run.get("interval", (0.0, 1.0))), ends, skip)


def grid_of(run: dict[str, Any]) -> Tensor:
    """The solver's times."""
    return time_grid(run["num_steps"], run["timeshift"], run.get("last_step"))


def integrate(run: dict[str, Any], velocity: GuidedVelocity, noise: Tensor) -> Tensor:
    """The final state of a run."""
    times_S = grid_of(run)
    if run["sampler"] == "euler":
        step, last = (STEPS[run.get(name, "ode")] for name in ("step_fn", "last_step_fn"))
        generators = sample_generators([run.get("seed", 0)] * len(noise))
        return sample_euler(velocity, noise, times_S, step, last, generators)
    if run["sampler"] in {"adam_lm", "port_adam_lm"}:
        return sample_adams(velocity, noise, times_S, run["order"])
    assert run["sampler"] == "heun", f"unknown sampler {run['sampler']}"
    return (sample_heun if run["exact"] else sample_heun_reuse)(velocity, noise, times_S)


def states_after_steps(run: dict[str, Any], recorder: Recorder) -> list[Tensor] | None:
    """States after 0, 1, ... steps, where the solver evaluates at them."""
    if run["sampler"] == "heun":
        return recorder.states[::2] if run["exact"] else None
    return recorder.states


def close(actual: Tensor, expected: NDArray[Any], atol: float) -> None:
    """Largest absolute difference at most `atol`, with equal shapes."""
    assert tuple(actual.shape) == expected.shape
    np.testing.assert_allclose(actual.numpy(), expected, rtol=0, atol=atol)


def check_coefficients(times_S: Tensor, order: int, expected: NDArray[np.float32]) -> None:
    """Multistep weights, oldest first; the stored rows are padded with zeros."""
    rows = adams_coefficients(times_S, order)
    assert len(rows) == len(expected)
    for row, stored in zip(rows, expected, strict=True):
        np.testing.assert_allclose(row, stored[: len(row)], rtol=0, atol=COEFFICIENTS[order])
        assert not stored[len(row) :].any()


def check_uint8(x: Tensor, expected: NDArray[np.uint8]) -> None:
    """At most one grey level, in at most 0.2 % of the values (rounding at a boundary)."""
    ours = to_uint8_half_up(x).permute(0, 3, 1, 2).numpy().astype(int)
    difference = np.abs(ours - expected.astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() <= UINT8_SHARE

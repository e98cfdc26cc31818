"""Runs of PixNerd's goldens, replayed with our solvers and checked against the original's.

Tolerances are those of the goldens' README: an independent float32 implementation reaches 1e-5 over
a trajectory. Of cases under bfloat16 autocast the README says nothing: two right programs differ by
roundings of 2^-9 in every product, so a share of the root mean square bounds them.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from golden.coefficients import check_coefficients, exact_weights_would_do
from numpy.typing import NDArray
from torch import Tensor, nn

from evalsuite.sampling.grids import time_grid
from evalsuite.sampling.guidance import Denoiser, Guidance, GuidedVelocity
from evalsuite.sampling.noise import sample_generators
from evalsuite.sampling.pixels import to_uint8_half_up
from evalsuite.sampling.solvers import (
    STEPS,
    sample_adams,
    sample_euler,
    sample_heun,
    sample_heun_reuse,
)

FINAL = 2e-4
FINAL_EXACT_WEIGHTS = 1e-3  # upstream's float32 coefficients of orders 3 and 4 are inexact
TIMES = 1e-7
UINT8_SHARE = 0.002
BFLOAT16_FORWARD, BFLOAT16_RUN = 0.02, 0.05
"""Measured with one more rounding: 0.008 and 0.02; beside float32: 0.014 and 0.031. A mistake is
0.03 to 0.96 of a forward."""


def check_run(
    network: Denoiser, condition: Tensor, null: Tensor, noise: Tensor, case: Any, k: int
) -> None:
    """Grid, network times, number of evaluations, states on the way, final image and uint8."""
    z, run, close = case.arrays(), case.meta["runs"][k], comparison_of(case.meta, BFLOAT16_RUN)
    recorder = Recorder(network)
    velocity = GuidedVelocity(recorder, condition, null, guidance_for(run, skip=False))
    x = integrate(run, velocity, noise)
    check_times(run, recorder.times, z, k)
    assert velocity.nfe == 2 * run["nfe"] == 2 * len(recorder.times)
    close(x, z[f"run{k}_x_final"], FINAL)
    check_uint8(x, z[f"run{k}_uint8"], case.meta)
    states = states_after_steps(run, recorder)
    if states is not None:
        every = torch.stack([*states, x]).flatten(1)
        close(every[:, torch.from_numpy(z[f"run{k}_probe_index"])], z[f"run{k}_probe"], FINAL)
        close(every.square().mean(1).sqrt(), z[f"run{k}_rms"], FINAL)
        if f"run{k}_x_traj" in z:
            close(torch.stack([*states, x]), z[f"run{k}_x_traj"], FINAL)
    if run["sampler"] == "adam_lm" and exact_weights_would_do(run, grid_of(run)):
        velocity = GuidedVelocity(network, condition, null, guidance_for(run, skip=False))
        exact = sample_adams(velocity, noise, grid_of(run), run["order"])
        close(exact, z[f"run{k}_x_final"], FINAL_EXACT_WEIGHTS if run["order"] > 2 else FINAL)


def check_times(run: dict[str, Any], network_times: list[float], z: Any, k: int) -> None:
    """The grid, what of it the network was given, and the multistep weights that follow from it."""
    stored_times = z[f"run{k}_timesteps"]
    close_in_float32(grid_of(run)[: len(stored_times)], stored_times, TIMES)
    assert len(stored_times) >= run["num_steps"]
    if f"run{k}_net_t" in z:
        np.testing.assert_allclose(network_times, z[f"run{k}_net_t"], rtol=0, atol=TIMES)
    if f"run{k}_coeffs" in z:
        check_coefficients(grid_of(run), run["order"], z[f"run{k}_coeffs"])


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
        together = sample_generators([run.get("seed", 0)]) * len(noise)  # upstream's one generator
        return sample_euler(velocity, noise, times_S, step, last, together)
    if run["sampler"] == "adam_lm":
        return sample_adams(velocity, noise, times_S, run["order"], "float32")
    if run["sampler"] == "port_adam_lm":
        return sample_adams(velocity, noise, times_S, run["order"])
    assert run["sampler"] == "heun", f"unknown sampler {run['sampler']}"
    return (sample_heun if run["exact"] else sample_heun_reuse)(velocity, noise, times_S)


def states_after_steps(run: dict[str, Any], recorder: Recorder) -> list[Tensor] | None:
    """States after 0, 1, ... steps, where the solver evaluates at them."""
    if run["sampler"] == "heun":
        return recorder.states[::2] if run["exact"] else None
    return recorder.states


Comparison = Callable[[Tensor, NDArray[Any], float], None]
"""Actual, expected, and the largest absolute difference between them in float32."""


def comparison_of(meta: dict[str, Any], share: float = BFLOAT16_FORWARD) -> Comparison:
    """How results of a case are compared: in float32, unless it was made in bfloat16.

    Then the root mean square of the difference may be `share` of the expected one's.
    """
    if not meta.get("cpu_autocast_bf16"):
        return close_in_float32
    return functools.partial(close_in_bfloat16, share=share)


def in_dtype_of(network: nn.Module, meta: dict[str, Any]) -> Denoiser:
    """The network as the case ran it: in float32, or under autocast on the CPU."""
    if not meta.get("cpu_autocast_bf16"):
        return network

    def under_autocast(*arguments: Any) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out: Tensor = network(*arguments)
        return out

    return under_autocast


def close_in_float32(actual: Tensor, expected: NDArray[Any], atol: float) -> None:
    """Largest absolute difference at most `atol`, with equal shapes."""
    assert tuple(actual.shape) == expected.shape
    np.testing.assert_allclose(actual.numpy(), expected, rtol=0, atol=atol)


def close_in_bfloat16(actual: Tensor, expected: NDArray[Any], atol: float, share: float) -> None:
    """Root mean square of the difference at most `share` of the expected one's."""
    assert tuple(actual.shape) == expected.shape
    difference = actual.double().numpy() - expected
    size = np.sqrt(np.square(expected, dtype=np.float64).mean())
    assert np.sqrt(np.square(difference).mean()) <= share * size + atol


def check_uint8(x: Tensor, expected: NDArray[np.uint8], meta: dict[str, Any]) -> None:
    """At most one grey level, in at most 0.2 % of the values (rounding at a boundary)."""
    ours = to_uint8_half_up(x).permute(0, 3, 1, 2).numpy().astype(int)
    difference = np.abs(ours - expected.astype(int))
    if meta.get("cpu_autocast_bf16"):
        assert difference.mean() <= BFLOAT16_RUN * 127.5
        return
    assert difference.max() <= 1
    assert (difference > 0).mean() <= UINT8_SHARE

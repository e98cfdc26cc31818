"""Solvers of the probability-flow ODE and of its stochastic relatives, each a pure function.

All integrate dx/dt = velocity(x, t) over `times_S` (float32 on the CPU, increasing from 0, noise,
to 1, data) from `noise_BCHW` and return images, float32, nominally in [-1, 1], not clamped.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.polynomial import Polynomial
from torch import Tensor

from evalsuite.sampling.guidance import VelocityFn
from evalsuite.sampling.noise import draw_noise

Generators = Sequence[torch.Generator]
CorrectorGuidance = Literal["next", "start"]
StepFn = Callable[[Tensor, Tensor, Tensor, Tensor, Generators], Tensor]
"""x [B,C,H,W], velocity, t, dt (scalars), per-sample generators => x at t + dt."""


def step_ode(x: Tensor, v: Tensor, t: Tensor, dt: Tensor, generators: Generators) -> Tensor:  # noqa: ARG001
    """Euler's step x + v dt."""
    return x + v * dt


def _fresh_noise(x: Tensor, generators: Generators) -> Tensor:
    channels, height, width = x.shape[1:]
    return draw_noise(generators, (channels, height, width)).to(x.device)


def _score(x: Tensor, v: Tensor, t: Tensor) -> Tensor:
    return (t * v - x) / ((1 - t) ** 2 + t * (1 - t))


def step_sde_mean(x: Tensor, v: Tensor, t: Tensor, dt: Tensor, generators: Generators) -> Tensor:  # noqa: ARG001
    """X + v dt + s (1 - t) dt with the score s; PixNerd `ode/sde` step functions, mean only."""
    return x + v * dt + _score(x, v, t) * (1 - t) * dt


def step_sde(x: Tensor, v: Tensor, t: Tensor, dt: Tensor, generators: Generators) -> Tensor:
    """`step_sde_mean` plus sqrt(2 (1 - t) dt) noise from each sample's own generator."""
    noise = _fresh_noise(x, generators)
    return step_sde_mean(x, v, t, dt, generators) + torch.sqrt(2 * (1 - t) * dt) * noise


def step_sde_preserve(
    x: Tensor, v: Tensor, t: Tensor, dt: Tensor, generators: Generators
) -> Tensor:
    """X + v dt + s (1 - t) dt / 2 + sqrt((1 - t) dt) noise."""
    noise = _fresh_noise(x, generators)
    drift = v * dt + 0.5 * _score(x, v, t) * (1 - t) * dt
    return x + drift + torch.sqrt((1 - t) * dt) * noise


STEPS: dict[str, StepFn] = {
    "ode": step_ode,
    "sde_mean": step_sde_mean,
    "sde": step_sde,
    "sde_preserve": step_sde_preserve,
}


def check_times(times_S: Tensor) -> None:
    """Raise ValueError unless `times_S` is one increasing row of at least two times."""
    if times_S.ndim != 1 or len(times_S) < 2 or bool((times_S[1:] <= times_S[:-1]).any()):
        raise ValueError("times must be one strictly increasing row of at least two values")


def sample_euler(
    velocity: VelocityFn,
    noise_BCHW: Tensor,
    times_S: Tensor,
    step: StepFn = step_ode,
    last_step: StepFn = step_ode,
    generators: Generators = (),
) -> Tensor:
    """Euler's method, or Euler-Maruyama with a stochastic step; num_steps evaluations.

    Source: PixNerd `sampling.py` (EulerSampler); the last interval may use another step.
    """
    check_times(times_S)
    x = noise_BCHW
    final = len(times_S) - 2
    for i, (t, t_next) in enumerate(itertools.pairwise(times_S)):
        advance = last_step if i == final else step
        x = advance(x, velocity(x, t), t, t_next - t, generators)
    return x


def sample_heun(
    velocity: VelocityFn,
    noise_BCHW: Tensor,
    times_S: Tensor,
    corrector_guidance: CorrectorGuidance = "next",
) -> Tensor:
    """Heun's method with an Euler step at the end; 2 * num_steps - 1 evaluations.

    Source: Karras et al. 2022, Algorithm 1; the HeunSampler of PixNerd, PixelGen and PixelDiT with
    its `exact_henu` on. `corrector_guidance` is the time at which the corrector looks up the
    guidance interval: its own (PixelDiT, JiT), or the start of the step (PixelGen).
    """
    check_times(times_S)
    x = noise_BCHW
    final = len(times_S) - 2
    for i, (t, t_next) in enumerate(itertools.pairwise(times_S)):
        v = velocity(x, t)
        predicted: Tensor = x + v * (t_next - t)
        if i == final:
            return predicted
        corrected = _corrected(velocity, predicted, t, t_next, corrector_guidance)
        x = x + (v + corrected) / 2 * (t_next - t)
    return x


def sample_heun_reuse(
    velocity: VelocityFn,
    noise_BCHW: Tensor,
    times_S: Tensor,
    corrector_guidance: CorrectorGuidance = "next",
) -> Tensor:
    """Heun's method that takes the corrector's velocity again as the next predictor's.

    num_steps evaluations. Source: the same HeunSamplers as they are by default.
    """
    check_times(times_S)
    x = noise_BCHW
    v = velocity(x, times_S[0])
    for t, t_next in itertools.pairwise(times_S[:-1]):
        predicted = x + v * (t_next - t)
        v_next = _corrected(velocity, predicted, t, t_next, corrector_guidance)
        x = x + (v + v_next) / 2 * (t_next - t)
        v = v_next
    return x + v * (times_S[-1] - times_S[-2])


def _corrected(
    velocity: VelocityFn, predicted: Tensor, t: Tensor, t_next: Tensor, guided_at: CorrectorGuidance
) -> Tensor:
    """The corrector's velocity, guided as at the end or at the start of its step."""
    if guided_at == "start":
        return velocity(predicted, t_next, t)
    return velocity(predicted, t_next)


def adams_coefficients(times_S: Tensor, order: int) -> list[np.ndarray]:
    """Weights of the last velocities, oldest first, for every interval; each row sums to 1.

    Integrals of the Lagrange basis through the last min(order, i + 1) times, in float64 (the
    original forms them in float32, which is inexact from order 3 on).
    """
    times = times_S.double().numpy()
    rows = []
    for i in range(len(times) - 1):
        nodes = times[max(0, i + 1 - order) : i + 1] - times[i]
        weights = np.empty(len(nodes))
        for j, node in enumerate(nodes):
            others = np.delete(nodes, j)
            basis = Polynomial.fromroots(others) if len(others) else Polynomial([1.0])
            integral = basis.integ()
            weights[j] = integral(times[i + 1] - times[i]) / np.prod(node - others)
        rows.append(weights / weights.sum())
    return rows


def adams_coefficients_float32(times_S: Tensor, order: int) -> list[np.ndarray]:
    """The same weights as the originals form them: float32 antiderivatives, subtracted.

    Cancellation makes them inexact from order 3 on (by 11 at worst, order 4 with 100 even steps);
    for comparison with upstream only. Source: AdamLMSampler of PixNerd and PixelGen.
    """
    times = times_S.float()
    rows = []
    for i in range(len(times) - 1):
        nodes = times[max(0, i + 1 - order) : i + 1]
        start, end = times[i], times[i + 1]
        weights = []
        for j, node in enumerate(nodes):
            others = torch.cat((nodes[:j], nodes[j + 1 :]))
            integral = _antiderivative(end, others) - _antiderivative(start, others)
            weights.append(integral / torch.prod(node - others))
        row = torch.stack(weights)
        rows.append((row / row.sum()).numpy())
    return rows


def _antiderivative(t: Tensor, roots: Tensor) -> Tensor:
    """Of the product of (t - root) for at most three roots, in the originals' float32 forms."""
    if len(roots) == 0:
        return t
    if len(roots) == 1:
        return (t - roots[0]) ** 2 / 2
    if len(roots) == 2:
        a, b = roots
        cubic: Tensor = (1 / 3) * t**3 - 0.5 * (a + b) * t**2 + a * b * t
        return cubic
    a, b, c = roots
    pairs = a * b + b * c + c * a
    quartic: Tensor = t**4 / 4 - (1 / 3) * (a + b + c) * t**3 + pairs * t**2 / 2 - a * b * c * t
    return quartic


def sample_adams(
    velocity: VelocityFn,
    noise_BCHW: Tensor,
    times_S: Tensor,
    order: int = 2,
    coefficients: Literal["float64", "float32"] = "float64",
) -> Tensor:
    """Adams-Bashforth linear multistep on an uneven grid; num_steps evaluations.

    Source: the AdamLMSampler of PixNerd and PixelGen, with the order rising 1, 2, ... to `order`
    (1 to 4).
    """
    check_times(times_S)
    if not 1 <= order <= 4:
        raise ValueError("order must lie in 1..4")
    weigh = adams_coefficients if coefficients == "float64" else adams_coefficients_float32
    x = noise_BCHW
    history: list[Tensor] = []
    for i, weights in enumerate(weigh(times_S, order)):
        history = [*history, velocity(x, times_S[i])][-order:]
        mixed = sum(float(w) * v for w, v in zip(weights, history, strict=True))
        x = x + mixed * (times_S[i + 1] - times_S[i])
    return x


def sample_adams2_constant(velocity: VelocityFn, noise_BCHW: Tensor, times_S: Tensor) -> Tensor:
    """Two-step Adams-Bashforth with 3/2 and -1/2 on every grid, even or not; num_steps evaluations.

    Source: what PixelDiT calls FlowDPMSolver. On an uneven grid it is not of second order.
    """
    check_times(times_S)
    x = noise_BCHW
    before: Tensor | None = None
    for t, t_next in itertools.pairwise(times_S):
        v = velocity(x, t)
        mixed = v if before is None else 1.5 * v - 0.5 * before
        x = x + (t_next - t) * mixed
        before = v
    return x


def sample_dpmpp_2m(velocity: VelocityFn, noise_BCHW: Tensor, times_S: Tensor) -> Tensor:
    """DPM-Solver++ (2M) in its data-prediction form for flow models; num_steps evaluations.

    Source: Lu et al. 2022 (arXiv 2211.01095), Algorithm 2, as PixelDiT's text model uses it: noise
    level tau = 1 - t, first and last step of first order, and the data prediction formed through
    the noise prediction, whose rounding near tau = 1 the original shares. `times_S` ends at 1.
    """
    check_times(times_S)
    levels = 1 - times_S
    lambdas = torch.log(1 - levels) - torch.log(levels)
    x = noise_BCHW
    before: Tensor | None = None
    final = len(times_S) - 2
    for i, (level, level_next) in enumerate(itertools.pairwise(levels.float())):
        v = velocity(x, times_S[i])
        noise = x - (1 - level) * v
        clean = (x - level * noise) / (1 - level)
        h = (lambdas[i + 1] - lambdas[i]).float()
        mixed = clean
        if before is not None and i < final:
            ratio = ((lambdas[i] - lambdas[i - 1]) / (lambdas[i + 1] - lambdas[i])).float()
            mixed = clean + (clean - before) / (2 * ratio)
        x = (level_next / level) * x - (1 - level_next) * torch.expm1(-h) * mixed
        before = clean
    return x

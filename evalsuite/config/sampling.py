"""Settings of the samplers and of the label rule."""

from typing import Literal

from pydantic import Field, model_validator

from evalsuite.config.base import (
    SOLVERS_WITH,
    DtypeName,
    Frozen,
    IntervalEnds,
    Sha256,
    SolverName,
    StepName,
)


class LabelRule(Frozen):
    """How `sample_index` decides the class label."""

    rule: Literal["modulo", "blocked", "random", "file"] = "modulo"
    """modulo: index % classes. blocked: runs of `per_class` (upstream's order). random: seeded by
    (`seed`, index). file: one label for each index."""
    per_class: int | None = Field(default=None, ge=1)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    sha256: Sha256 | None = None
    """Of the labels of a file, as little-endian int64."""

    @model_validator(mode="after")
    def _only_own_fields(self) -> "LabelRule":
        wanted = {"blocked": "per_class", "random": "seed", "file": "sha256"}.get(self.rule)
        for name in ("per_class", "seed", "sha256"):
            if (getattr(self, name) is not None) != (name == wanted):
                raise ValueError(f"label rule {self.rule!r} and {name!r} do not fit")
        return self

    def describe(self) -> str:
        """The rule as the command line takes it."""
        detail = self.per_class or self.seed or (self.sha256 or "")[:8]
        return self.rule if self.rule == "modulo" else f"{self.rule}:{detail or 0}"


class SamplingSettings(Frozen):
    """Everything about the sampler that decides pixels."""

    solver: SolverName
    num_steps: int = Field(ge=1, le=100_000)
    """Solver intervals."""
    order: int | None = Field(default=None, ge=1, le=4)
    """Of `adams` only."""
    step: StepName = "ode"
    """Step function; others than `ode` belong to `euler`."""
    last_step: float | None = Field(default=None, gt=0, le=1)
    """Length of the last interval before the time shift; 1 / num_steps when absent."""
    grid: Literal["linspace"] | None = None
    """linspace: torch.linspace(0, 1, num_steps + 1) before the shift (JiT), whose last bits differ
    from the grid of the others, linspace(0, 1 - last_step, num_steps) and 1."""
    timeshift: float = Field(default=1.0, ge=1e-4, le=1e4)
    """The s in t = u / (u + (1 - u) * s)."""
    guidance_scale: float = Field(ge=0)
    """uncond + s * (cond - uncond); 1 is off."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Times between which guidance acts; t = 0 is noise."""
    interval_ends: IntervalEnds = "open"
    """open: lo < t < hi (PixNerd, PixelDiT). open_but_zero: the same, but lo = 0 includes t = 0
    (JiT). left_open: lo < t <= hi (PixelGen's Euler and Heun; its Adams is open). closed: both."""
    skip_unguided: bool = True
    """Leave the unconditional half out where the scale is 1; false restores the doubled batch."""
    noise_scale: float = Field(default=1.0, gt=0)
    """Factor on the initial standard normal noise."""
    t_eps: float | None = Field(default=None, gt=0, lt=1)
    """Of networks that predict the clean image: v = (clean - x) / max(1 - t, t_eps)."""
    corrector_guidance: Literal["start"] | None = None
    """Of the Heun solvers: the corrector looks up the interval where its step starts (PixelGen);
    at its own time when absent."""
    coefficients: Literal["float32"] | None = None
    """Of `adams`: float32 repeats the rounding of the original's weights, which is large from
    order 3 on; float64 when absent."""
    dtype: DtypeName = "float32"
    """bfloat16: the network under autocast, as published; state, noise and times stay float32."""

    @model_validator(mode="after")
    def _consistent(self) -> "SamplingSettings":
        low, high = self.guidance_interval
        if not 0 <= low < high <= 1:
            raise ValueError(
                f"guidance_interval must be LO HI with 0 <= LO < HI <= 1, not {low:g} {high:g}"
            )
        if (self.order is not None) != (self.solver == "adams"):
            raise ValueError(f"order is for solver 'adams' alone, and it needs one ({self.solver})")
        for name, solvers in SOLVERS_WITH.items():
            if getattr(self, name) not in {None, "ode"} and self.solver not in solvers:
                raise ValueError(
                    f"{name} {getattr(self, name)!r} is for solver {' or '.join(solvers)}"
                )
        if self.solver == "dpmpp_2m" and (self.last_step or self.grid):
            raise ValueError("solver 'dpmpp_2m' has a grid of its own, without last_step")
        if self.grid and self.last_step:
            raise ValueError("grid 'linspace' has even steps: last_step does not apply")
        return self

"""What a plan's sampler is, in words: for report, run card and the line to paste."""

from evalsuite.config import Plan
from evalsuite.sampling.sampler import count_nfe

_BRACKETS = {
    "open": "({:g}, {:g})",
    "open_but_zero": "({:g}, {:g})",
    "left_open": "({:g}, {:g}]",
    "closed": "[{:g}, {:g}]",
}


def describe_sampler(plan: Plan) -> list[str]:
    """Clauses such as `adams-2 15 steps, NFE 24` and `guidance 1.5 on t in (0.1, 0.7)`."""
    sampling = plan.sampling
    if sampling is None:
        settings = plan.settings or {}
        return [f"own sampler {plan.family}", *(f"{k} {v}" for k, v in settings.items())]
    order = f"-{sampling.order}" if sampling.order else ""
    interval = _BRACKETS[sampling.interval_ends].format(*sampling.guidance_interval)
    guide = f" by {plan.guide.ema} {plan.guide.weights_sha256[:8]}" if plan.guide else ""
    return [
        f"{sampling.solver}{order} {sampling.num_steps} steps, NFE {count_nfe(sampling)}",
        f"guidance {sampling.guidance_scale:g}{guide} on t in {interval}",
        f"time shift {sampling.timeshift:g}",
        *(f"{name} {value}" for name, value in unusual_settings(plan).items()),
    ]


def describe_dtype(plan: Plan) -> str:
    """The dtype of the network's matrix products."""
    return plan.sampling.dtype if plan.sampling else str((plan.settings or {}).get("dtype", ""))


def describe_conditions(plan: Plan) -> str:
    """The label rule, or the prompts."""
    if plan.text is not None:
        prompts = plan.text.prompts
        return f"{prompts.count} prompts {prompts.sha256[:8]}"
    chosen = "" if plan.classes is None else f" of {plan.classes}"
    return f"labels {plan.labels.describe()}{chosen}"


def unusual_settings(plan: Plan) -> dict[str, str]:
    """Settings that most plans leave alone, where this one does not."""
    sampling = plan.sampling
    if sampling is None:
        return {}
    unusual = {
        "noise scale": f"{sampling.noise_scale:g}" if sampling.noise_scale != 1 else "",
        "last step": f"{sampling.last_step:g}" if sampling.last_step is not None else "",
        "step": sampling.step if sampling.step != "ode" else "",
        "coefficients": sampling.coefficients or "",
        "unguided passes": "" if sampling.skip_unguided else "doubled",
    }
    return {name: value for name, value in unusual.items() if value}


def nfe_of(plan: Plan) -> int | None:
    """Network evaluations per image; None for a model with its own sampler."""
    return count_nfe(plan.sampling) if plan.sampling else None

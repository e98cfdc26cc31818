"""What goes, stays or comes when another solver than a preset's own is asked for."""

import typing
from collections.abc import Mapping
from typing import Any

from evalsuite.config.base import SOLVERS_WITH, SolverName
from evalsuite.config.sampling import SamplingSettings

_OWN_GRID, _GRID = "dpmpp_2m", {"last_step", "grid"}
"""The solver that has times of its own, and the settings of those of the others."""
_INTERVAL = {"guidance_interval", "interval_ends"}


def of_other_solver(preset: Mapping[str, Any], solver: str) -> dict[str, Any]:
    """The settings that change with the solver, as the original program has them.

    Args:
        preset: a preset's content, of which `with_solver` is looked at.
        solver: the one that takes the place of the preset's own.
    """
    changed: dict[str, Any] = {"order": 2 if solver == "adams" else None}
    for name, solvers in SOLVERS_WITH.items():
        if solver not in solvers:
            changed[name] = "ode" if name == "step" else None
    if solver == _OWN_GRID:
        changed |= dict.fromkeys(_GRID)
    return {**changed, **_entries(preset).get(solver, {})}


def rebased(preset: Mapping[str, Any], solver: object) -> dict[str, Any]:
    """A preset's content with another solver as its own, so that going back restores the rest.

    What the content leaves out counts as its default. Nothing changes where `solver` is the
    preset's or no solver's name; where the preset names none, only what comes with `solver` does.
    """
    sampling = preset.get("sampling")
    own = sampling.get("solver") if isinstance(sampling, dict) else None
    if not isinstance(sampling, dict) or not isinstance(solver, str) or solver == own:
        return dict(preset)
    entries = _entries(preset)
    comes = of_other_solver(preset, solver) if own else entries.get(solver, {})
    changed = {**sampling, **comes, "solver": solver}
    others = {}
    for other in typing.get_args(SolverName):
        switched = {} if other == own else of_other_solver(preset, other)
        wanted = _complete({**sampling, **switched, "solver": other})
        got = _complete({**changed, **of_other_solver({}, other), "solver": other})
        entry = {name: wanted[name] for name in wanted if wanted[name] != got.get(name)}
        if entry and other != solver:
            others[other] = entry
    return {**preset, "sampling": changed, "with_solver": others}


def stated_anew(preset: Mapping[str, Any], stated: Mapping[str, Any]) -> set[str]:
    """The settings to which a file that extends `preset` gives another value than it has.

    To state a value again, as beside its source, changes nothing under any solver; an interval and
    its ends are one setting.
    """
    sampling = preset.get("sampling")
    before = _complete(sampling if isinstance(sampling, dict) else {})
    absent = object()
    anew = {name for name, v in _as_tree(stated).items() if before.get(name, absent) != v}
    return anew | (_INTERVAL & stated.keys() if anew & _INTERVAL else set())


def _complete(sampling: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with the defaults of those that are left out; lists as the tree holds them."""
    fields = SamplingSettings.model_fields
    defaults = {name: field.default for name, field in fields.items() if not field.is_required()}
    return {**defaults, **_as_tree(sampling)}


def _as_tree(sampling: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(v) if isinstance(v, list) else v for name, v in sampling.items()}


def _entries(preset: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """`with_solver`, as far as it is what it should be: faults are told when it is parsed."""
    found = preset.get("with_solver")
    if not isinstance(found, Mapping):
        return {}
    return {name: dict(entry) for name, entry in found.items() if isinstance(entry, Mapping)}

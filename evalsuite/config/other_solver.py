"""What goes, stays or comes when another solver than a preset's own is asked for."""

import typing
from collections.abc import Mapping
from typing import Any

from evalsuite.config.base import SOLVERS_WITH, SolverName


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
    if solver == "dpmpp_2m":  # its grid is its own
        changed |= {"last_step": None, "grid": None}
    return {**changed, **_entries(preset).get(solver, {})}


def rebased(preset: Mapping[str, Any], solver: object) -> dict[str, Any]:
    """A preset's content with another solver as its own, so that going back restores the rest.

    Nothing changes where `solver` is the preset's or no solver's name.
    """
    sampling = preset.get("sampling")
    own = sampling.get("solver") if isinstance(sampling, dict) else None
    if not isinstance(sampling, dict) or not isinstance(solver, str) or solver == own:
        return dict(preset)
    entries = _entries(preset)
    varying = {name for entry in entries.values() for name in entry}
    kept = {name: sampling[name] for name in sorted(varying) if name in sampling}
    others = {
        name: {**kept, **entries.get(name, {})}
        for name in typing.get_args(SolverName)
        if name != solver and (kept or name in entries)
    }
    solvers_own = ("order", *SOLVERS_WITH)
    back = {name: sampling[name] for name in solvers_own if sampling.get(name) is not None}
    others[str(own)] = {**kept, **back}
    sampling = {**sampling, **of_other_solver(preset, solver), "solver": solver}
    return {**preset, "sampling": sampling, "with_solver": others}


def _entries(preset: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """`with_solver`, as far as it is what it should be: faults are told when it is parsed."""
    found = preset.get("with_solver")
    if not isinstance(found, Mapping):
        return {}
    return {name: dict(entry) for name, entry in found.items() if isinstance(entry, Mapping)}

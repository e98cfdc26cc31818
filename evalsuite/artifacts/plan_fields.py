"""Fields of plans by their dotted names, and those in which two plans differ."""

from typing import Any

from evalsuite.config import Plan


def differences(ours: Plan, other: Plan) -> list[str]:
    """The fields in which two plans differ, as `field: here X, asked Y`."""
    return [
        f"{key} is {here!r} there, {asked!r} was asked"
        for key, (here, asked) in differing_fields(ours, other).items()
    ]


def differing_fields(ours: Plan, other: Plan) -> dict[str, tuple[Any, Any]]:
    """Both values of each field in which two plans differ, by its dotted name."""
    here, there = flat_fields(ours), flat_fields(other)
    return {
        key: (here.get(key), there.get(key))
        for key in sorted(here.keys() | there.keys())
        if here.get(key) != there.get(key)
    }


def flat_fields(plan: Plan) -> dict[str, Any]:
    """A plan's fields by their dotted names: `sampling.num_steps`."""
    return _flat(plan.model_dump(mode="json"))


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat

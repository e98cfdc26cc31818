"""What a sweep decides, each file with a seal: the table of a rung, and the result.

The seal is a hash over the sweep, the file's place in it and everything else in the file, so that
an edited table is found, and one of another rung or sweep too.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from evalsuite.artifacts.storage import Place
from evalsuite.config import Frozen, canonical_json, explain, parse_json
from evalsuite.errors import CorruptionError

_SEAL = "table_sha256"
REMEDY = "run the same sweep command again, which writes it anew"
"""For every table that cannot be used: it follows from the runs."""


class RungRow(Frozen):
    """One configuration on one rung."""

    name: str
    value: float | None
    """Of the metric, as recorded; None when it is undefined."""
    standard_error: float | None
    ranked_by: float | None
    """The value, or its extrapolation to infinite N."""
    difference: float | None
    """Of `ranked_by` from the leader's."""
    difference_error: float | None
    paired: bool
    half_width: float | None
    """Of the interval of the difference; in 95 % of sweeps all intervals hold at once."""
    excluded: bool
    goes_on: bool
    others: dict[str, float | None]
    """Other metrics of the same samples."""
    fault: str | None = None
    """Why it has no samples, and so no numbers, on this rung and any later one."""

    @property
    def fate(self) -> str:
        """Whether it goes on, and why not where it has a fault."""
        return "goes on" if self.goes_on else f"dropped: {self.fault}" if self.fault else "dropped"


class RungTable(Frozen):
    """One rung."""

    num_samples: int
    extrapolated: bool
    """Whether configurations are ranked by the extrapolated distance."""
    may_exclude: bool
    rows: tuple[RungRow, ...]
    """The leader first."""

    @property
    def is_ranked(self) -> bool:
        """Whether anybody leads: not where the metric is undefined for every configuration."""
        return self.rows[0].ranked_by is not None

    @property
    def level(self) -> tuple[str, ...]:
        """Configurations whose interval of the difference from the leader holds 0.

        Of a rung that may drop nobody no interval is known to hold.
        """
        return tuple(
            row.name
            for row in self.rows[1:]
            if self.may_exclude
            and row.difference is not None
            and row.half_width is not None
            and abs(row.difference) <= row.half_width
        )

    @property
    def untold(self) -> tuple[str, ...]:
        """Configurations with a value of which nobody knows whether it is level or behind."""
        return tuple(
            row.name
            for row in self.rows[1:]
            if row.ranked_by is not None and (not self.may_exclude or row.half_width is None)
        )

    @property
    def remedy(self) -> str:
        """What to do where nobody leads."""
        if all(row.fault for row in self.rows):
            return "look at the weights and at the values of the axes"
        return "take another --metric, or larger --rungs"


class Fresh(Frozen):
    """The winner on seeds that had no part in choosing it."""

    run: str
    value: float | None
    standard_error: float | None
    ranked_by: float | None
    """As on the last rung: the value, or its extrapolation."""
    lost: float | None
    """How much worse that is than on the sweep's own seeds; negative where it is better."""
    lost_error: float | None
    """Standard error of that: the two share no sample."""
    fault: str | None = None
    """Why there are no numbers of them."""


class SweepResult(Frozen):
    """What a sweep found."""

    winner: str
    plan_id: str
    run: str
    num_samples: int
    value: float | None
    standard_error: float | None
    ranked_by: float | None
    level_with_winner: tuple[str, ...]
    """Configurations whose interval on the last rung holds 0."""
    untold: tuple[str, ...] = ()
    """Those that the last rung tells nothing of: no interval, or too few samples for one."""
    samples: int
    """That the sweep needs, in whole batches, whoever made them; fresh ones apart."""
    samples_of_grid: int
    """That every configuration on the last rung would need."""
    stopped_by_budget: bool
    fresh: Fresh | None


def write_sealed(table: BaseModel, sweep_id: str, path: str) -> bytes:
    """The file of a table or a result that lies at `path` in a sweep."""
    content = table.model_dump(mode="json")
    return as_file({**content, _SEAL: _seal_of(content, sweep_id, path)})


def read_sealed(kind: Any, content: bytes, sweep_id: str, root: Place, path: str) -> Any:  # noqa: ANN401 - a `kind`
    """What `write_sealed` wrote, as an instance of `kind`.

    Raises:
        CorruptionError: it cannot be read, has no seal, or was edited.
    """
    where = root / path
    try:
        tree = parse_json(content)
    except ValueError as error:
        raise CorruptionError(f"{where} is not JSON ({error}): {REMEDY}") from error
    if not isinstance(tree, dict) or _SEAL not in tree:
        raise CorruptionError(f"{where} has no {_SEAL}, so an edit would not be seen: {REMEDY}")
    seal = tree.pop(_SEAL)
    if seal != _seal_of(tree, sweep_id, path):
        raise CorruptionError(f"{where} was edited, it does not hash to its {_SEAL}: {REMEDY}")
    try:
        return kind.model_validate(tree)
    except ValidationError as error:  # of another version
        raise CorruptionError(f"{where}: {explain(error, kind)}: {REMEDY}") from error


def _seal_of(content: Mapping[str, Any], sweep_id: str, path: str) -> str:
    return hashlib.sha256(canonical_json([sweep_id, path, content])).hexdigest()


def as_file(value: object) -> bytes:
    """JSON as a sweep's files have it."""
    return (json.dumps(value, indent=1) + "\n").encode()


def read_model(kind: Any, content: bytes, where: Place) -> Any:  # noqa: ANN401 - a `kind`
    """What a JSON file holds, as an instance of `kind`.

    Raises:
        CorruptionError: it cannot be read as one.
    """
    try:
        return kind.model_validate(parse_json(content))
    except ValidationError as error:
        raise CorruptionError(f"{where}: {explain(error, kind)}") from error
    except ValueError as error:
        raise CorruptionError(f"{where} is not JSON: {error}") from error

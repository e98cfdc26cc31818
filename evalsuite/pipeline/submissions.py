"""Records submitted to a board: read, recomputed where they can be, every fault named."""

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from evalsuite.artifacts.records import (
    RECORD_SCHEMA,
    Record,
    contradiction,
    record_digest,
    short_count,
)
from evalsuite.config import (
    ExtractorSpec,
    ModelPreset,
    Plan,
    explain,
    load_spec,
    names_of,
)
from evalsuite.errors import DataError
from evalsuite.metrics.registry import METRICS
from evalsuite.pipeline.record_files import each_once, files_of, written_in
from evalsuite.pipeline.registered import (
    is_extractor,
    is_made_for,
    is_reference,
    keeps_rules,
    named_reference,
)
from evalsuite.sampling.describe import nfe_of

_SHARES = frozenset({"precision", "recall", "coverage"})
_DISTANCES = frozenset({"fid", "sfid", "inception_score", *_SHARES})
"""Metrics that are never negative; a KID may be."""
_VARYING = frozenset({"fid", "sfid", "inception_score", "kid", "cmmd"})
"""Metrics that other samples move, however many there are; a share of all or of none need not."""
_RESULT_FILE = re.compile(r"[a-z0-9_-]+-[0-9a-f]{16}\.json")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Submission(NamedTuple):
    """One record that was looked at.

    Attributes:
        where: its file, and its place there where there are several.
        record: None when it cannot be read.
        faults: what is wrong, in words; empty when nothing is.
    """

    where: str
    record: Record | None
    faults: tuple[str, ...]


def check_submissions(paths: Iterable[Path]) -> list[Submission]:
    """Every record of files and folders, once, with its faults.

    Raises:
        DataError: a path does not exist, a folder holds no JSON file, or there is no record at all.
    """
    files = each_once(file for path in paths for file in files_of(path))
    if not files:
        raise DataError("there is no record yet: `evalsuite evaluate RUN` makes those of a run")
    return _with_conflicts([one for file in files for one in _of_file(file)])


def _of_file(path: Path) -> Iterator[Submission]:
    try:
        found = written_in(path)
    except DataError as error:
        yield Submission(str(path), None, (str(error),))
        return
    for one in found:
        yield _submission(one.content, one.where, one.file_name)


def _submission(content: object, where: str, file_name: str | None = None) -> Submission:
    if not isinstance(content, dict) or "protocol" not in content:
        return Submission(where, None, ("it is no record: `evalsuite evaluate` writes them",))
    version = content.get("schema_version")
    if version != RECORD_SCHEMA:
        fault = f"its schema version is {version!r}, this evalsuite reads {RECORD_SCHEMA}"
        return Submission(where, None, (fault,))
    try:
        record = Record.model_validate(content)
    except ValidationError as error:
        return Submission(where, None, (explain(error, Record),))
    faults = [
        fault
        for looked in (_hashes(record, content), _pins(record), _plan(record), _numbers(record))
        for fault in looked
    ]
    if file_name and _RESULT_FILE.fullmatch(file_name) and not record.path.endswith(file_name):
        faults.append(f"its file should be called {record.path.rpartition('/')[2]}")
    return Submission(where, record, tuple(faults))


def _hashes(record: Record, content: Mapping[str, Any]) -> Iterator[str]:
    if record.record_sha256 is None:
        yield "it has no record_sha256: score it again with this version"
    elif record_digest(content) != record.record_sha256:
        yield "it was edited: it does not hash to its record_sha256"
    recomputed = record.protocol.protocol_id
    if recomputed != record.protocol_id:
        yield f"its protocol hashes to {recomputed}, not to its protocol_id {record.protocol_id}"
    protocol = record.protocol
    for name in ("extractor_sha256", "reference_sha256"):
        digest = getattr(protocol, name)
        if digest not in {None, "none"} and not _SHA256.fullmatch(digest):
            yield f"protocol.{name} is no SHA-256"


def _pins(record: Record) -> Iterator[str]:
    """Whether what has a registered name is the registered thing."""
    protocol = record.protocol
    name = protocol.extractor.rpartition("-")[0]
    if name in names_of(ExtractorSpec) and not is_extractor(protocol, name):
        known = load_spec(ExtractorSpec, name).extractor_id
        yield f"its extractor {protocol.extractor}, or its weights, is not the registered {known}"
    if not is_reference(record):
        yield f"its reference is called {record.reference} and has other images"
    named = named_reference(record)
    if named is not None and not is_made_for(named, protocol):
        yield (
            f"reference {named.name} has features of {named.extractor}, the protocol those of"
            f" {protocol.extractor}"
        )
    for asked in record.protocol_names:
        if asked is not None and not keeps_rules(protocol, asked):
            yield f"its protocol has not the rules of the {asked} that it is called"


def _plan(record: Record) -> Iterator[str]:
    """What the plan that made the samples says, where there is one."""
    content, named = record.samples.get("plan"), record.samples.get("plan_id")
    if content is None:
        if named is not None:
            yield "it names a plan_id but holds no plan"
        return
    try:
        plan = Plan.model_validate(content)
    except ValidationError as error:
        yield f"its plan: {explain(error, Plan)}"
        return
    if plan.plan_id != named:
        yield f"its plan hashes to {plan.plan_id[:12]}, not to its plan_id {str(named)[:12]}"
    if plan.has_random_weights:
        yield "its plan has random weights"
    if plan.text is None and record.protocol.label_rule is not None:
        rule = record.protocol.label_rule.partition(" of ")[0]
        if rule != plan.labels.describe():
            yield f"its labels are {rule} in the protocol and {plan.labels.describe()} in the plan"
    if record.protocol.uint8_rule not in {None, plan.uint8_rule}:
        yield f"its uint8 rule is {record.protocol.uint8_rule}, the plan's {plan.uint8_rule}"
    if record.samples.get("nfe") != nfe_of(plan):
        yield f"its nfe is {record.samples.get('nfe')}, the plan's {nfe_of(plan)}"
    yield from _model(plan, record)


def _model(plan: Plan, record: Record) -> Iterator[str]:
    """Whether the model and the reference of a plan's samples can be those that are named."""
    model, named = record.samples.get("model"), named_reference(record)
    if model in names_of(ModelPreset):
        preset = load_spec(ModelPreset, model)
        ours = {key: plan.network.get(key, value) for key, value in preset.network.items()}
        if (plan.family, ours) != (preset.family, preset.network):
            yield f"its model is called {model}, and the plan has another network"
    size = None if named is None else named.size or (named.images.size if named.images else None)
    if named is not None and size is not None and tuple(size) != tuple(plan.size):
        yield (
            f"its samples are {plan.size[0]}x{plan.size[1]}, reference {named.name} is of"
            f" {size[0]}x{size[1]} images"
        )


def _numbers(record: Record) -> Iterator[str]:
    count = record.protocol.num_samples
    if record.metric != record.protocol.metric:
        yield f"it is of {record.metric}, its protocol of {record.protocol.metric}"
    if not record.display.endswith(f"-{short_count(count)}"):
        yield f"it is called {record.display} and counts {count} samples"
    known = METRICS.get(record.metric)
    if known is not None and known.better != record.better:
        yield f"{record.metric}: {known.better} is better, not {record.better}"
    if record.value is not None:
        if record.metric in _DISTANCES and record.value < 0:
            yield f"{record.metric} cannot be {record.value:g}"
        if record.metric in _SHARES and record.value > 1:
            yield f"{record.metric} cannot be {record.value:g}"
    yield from _errors(record)
    for name, spent in record.cost.items():
        if spent is not None and spent < 0:
            yield f"its cost.{name} is {spent:g}"
    try:
        datetime.fromisoformat(record.created_at)
    except ValueError:
        yield f"its created_at {record.created_at!r} is no time in ISO 8601"


def _errors(record: Record) -> Iterator[str]:
    error = record.standard_error
    if error is not None and error < 0:
        yield f"its standard error is {error:g}"
    all_alike = (record.metric, record.value) == ("inception_score", 1)
    if error == 0 and record.metric in _VARYING and not all_alike:
        yield "its standard error is 0, as if other samples could give no other value"


def _with_conflicts(found: list[Submission]) -> list[Submission]:
    """Faults of records that give one plan other numbers by one protocol, added to the later one.

    Samples of other numerics may have other values. What has a fault of its own says nothing
    against others.
    """
    seen: dict[tuple[str, str, tuple[str, ...]], list[tuple[str, Record]]] = {}
    checked = []
    for one in found:
        plan_id = one.record.samples.get("plan_id") if one.record else None
        if one.record is not None and plan_id is not None and not one.faults:
            key = (str(plan_id), one.record.protocol_id, one.record.numerics_ids)
            before = seen.setdefault(key, [])
            faults = [
                f"{where} gives the same plan other numbers by the same protocol:"
                f" {differing}, here the second"
                for where, first in before
                if (differing := contradiction(first, one.record)) is not None
            ]
            before.append((one.where, one.record))
            one = one._replace(faults=tuple(faults[:1]))
        checked.append(one)
    return checked

"""Records of a run as its report shows them: grouped by what they are of."""

from collections.abc import Sequence
from typing import NamedTuple

from evalsuite.artifacts.records import Record
from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.metrics.registry import METRICS
from evalsuite.report.summary import by_protocol, paste_line, reference_lines


class ResultGroup(NamedTuple):
    """Records over one number of samples, and a paste line for each extractor and reference.

    `reference_lines` warn of the references' traps.
    """

    num_samples: int
    records: list[Record]
    paste_lines: list[str]
    reference_lines: list[str]


def result_groups(run: RunDirectory, records: Sequence[Record]) -> list[ResultGroup]:
    """Records by number of samples, the largest number first."""
    counts = sorted({record.protocol.num_samples for record in records}, reverse=True)
    groups = []
    for count in counts:
        ours = [record for record in records if record.protocol.num_samples == count]
        lines = [
            paste_line(run.plan, run.manifest.model, count, part) for part in _pasted_together(ours)
        ]
        groups.append(ResultGroup(count, ours, lines, reference_lines(ours)))
    return groups


def foreign_prefixes(records: Sequence[Record]) -> list[tuple[str, str]]:
    """(prefix, extractor family) of metric names that another extractor than ImageNet's gave."""
    found = {}
    for record in records:
        spec = METRICS.get(record.metric)
        prefix = record.display.rpartition(spec.display)[0] if spec else ""
        if prefix:
            found[prefix] = record.protocol.extractor
    return sorted(found.items())


def _pasted_together(records: Sequence[Record]) -> list[list[Record]]:
    """Records of one extractor, protocol and reference, with those that need no reference."""
    parts = []
    together = [
        [r for r in of_protocol if r.protocol.extractor_sha256 == extractor]
        for of_protocol in by_protocol(records)
        for extractor in dict.fromkeys(r.protocol.extractor_sha256 for r in of_protocol)
    ]
    for ours in together:
        names = dict.fromkeys(r.reference for r in ours if r.reference is not None)
        parts += [[r for r in ours if r.reference in {None, name}] for name in names] or [ours]
    return parts

"""The report of a run: one HTML file that needs no network.

What people and models wrote (names, tags, outcomes) passes jinja2's escaping; images are data URIs.
"""

import base64
import hashlib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import ValidationError

from evalsuite.artifacts.receipts import NO_END, ReceiptHead, cover
from evalsuite.artifacts.records import Record, record_digest
from evalsuite.artifacts.run_directory import IMAGES, RunDirectory, gaps_of
from evalsuite.artifacts.storage import Place
from evalsuite.config import canonical_json, explain
from evalsuite.errors import CorruptionError, UsageError
from evalsuite.metrics.registry import METRICS
from evalsuite.report.cost import run_cost
from evalsuite.report.grid import GRID_CLASSES, sample_grid
from evalsuite.report.summary import by_protocol, number, paste_line, reference_lines
from evalsuite.sampling.describe import nfe_of

REPORT_PATH = "report/index.html"
LONGEST_LIST = 40
"""Rows of a list that could grow without end: invocations, workers, repairs."""

_FLAGS = {"json_path": "json", "tags": "tag"}
"""Names of options in an attempt's file that are not those of their flags."""


class ResultGroup(NamedTuple):
    """Records over one number of samples, and a paste line for each extractor and reference.

    `reference_lines` warn of the references' traps.
    """

    num_samples: int
    records: list[Record]
    paste_lines: list[str]
    reference_lines: list[str]


class Invocation(NamedTuple):
    """One file of `attempts/`."""

    number: int
    id: str
    started_at: str
    outcome: str
    complete: bool
    images_made: int
    workers: int
    workers_lost: int
    seconds: float
    hosts: list[str]
    numerics_ids: list[str]
    repaired: list[str]
    tags: dict[str, str]
    command: str
    num_samples: int
    packages: dict[str, str]
    git: dict[str, Any]


class Software(NamedTuple):
    """One set of versions and what ran on it."""

    used_by: list[str]
    packages: dict[str, str]
    git: dict[str, Any]


def write_report(run: RunDirectory) -> Place:
    """Write `report/index.html`, in place of an older one, and say where it lies.

    Raises:
        UsageError: the weights are random numbers, which are no result.
        CorruptionError: a receipt, a result or kept pixels cannot be trusted.
    """
    if run.plan.has_random_weights:
        raise UsageError(f"{run.root} was made with random weights: there is nothing to report")
    run.storage.replace(REPORT_PATH, render_report(run).encode("utf-8", "replace"))
    return run.storage.path(REPORT_PATH)


def render_report(run: RunDirectory) -> str:
    """The report as HTML; an unchanged run gives unchanged text.

    Raises:
        CorruptionError: a receipt, a result or kept pixels cannot be trusted.
    """
    receipts = run.committed(IMAGES)
    records = _records(run)
    invocations = _invocations(run)
    spans = [(receipt.start, receipt.stop) for receipt in receipts]
    asked = max((one.num_samples for one in invocations), default=0)
    environment = page_environment()
    return environment.get_template("report.html.j2").render(
        manifest=run.manifest,
        plan=run.plan,
        nfe=nfe_of(run.plan),
        num_images=sum(part.stop - part.start for part in cover(receipts, 0, NO_END)),
        num_asked=asked,
        gaps=gaps_of(spans, 0, asked) if asked else [],
        groups=result_groups(run, records),
        prefixes=_prefixes(records),
        grid=sample_grid(run, receipts),
        grid_classes=GRID_CLASSES,
        stop=max((stop for _, stop in spans), default=0),
        canonical_plan=run.plan.canonical.decode(),
        invocations=invocations,
        commands=list(dict.fromkeys(one.command for one in invocations)),
        unrecorded=_unrecorded(receipts, invocations),
        software=_software(invocations, records),
        numerics={receipt.numerics_id: receipt.numerics for receipt in receipts},
        cost=run_cost(run, receipts, sum(one.seconds for one in invocations), records),
        longest_list=LONGEST_LIST,
        script_sha256=_script_sha256(environment),
    )


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


def reproduce_command(command: str, asked: Mapping[str, Any]) -> str:
    """The command line that asks the same, one option on each line, quoted for a shell."""
    lines = [shlex.join(["evalsuite", command])]
    for option, value in asked.items():
        flag = "--" + _FLAGS.get(option, option).replace("_", "-")
        lines += [shlex.join([flag, *words]) for words in _typed(option, value)]
    return " \\\n  ".join(lines)


def _records(run: RunDirectory) -> list[Record]:
    """All results, in the order of the registry of metrics."""
    order = {name: place for place, name in enumerate(METRICS)}
    records = []
    for name, content in zip(
        run.storage.names("results", ".json"), run.read_json_folder("results"), strict=True
    ):
        where = run.root / f"results/{name}"
        try:
            records.append(Record.model_validate(content))
        except ValidationError as error:
            raise CorruptionError(f"{where}: {explain(error, Record)}: remove it") from error
        if records[-1].record_sha256 not in {None, record_digest(content)}:
            raise CorruptionError(f"{where} was edited: `evalsuite evaluate` writes it again")
    return sorted(
        records,
        key=lambda r: (order.get(r.metric, len(order)), r.metric, r.reference or "", r.path),
    )


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


def _prefixes(records: Sequence[Record]) -> list[tuple[str, str]]:
    """(prefix, extractor family) of metric names that another extractor than ImageNet's gave."""
    found = {}
    for record in records:
        spec = METRICS.get(record.metric)
        prefix = record.display.rpartition(spec.display)[0] if spec else ""
        if prefix:
            found[prefix] = record.protocol.extractor
    return sorted(found.items())


def _typed(option: str, value: object) -> list[list[str]]:
    """What stood behind each occurrence of an option."""
    if value is None or value is False:
        return []
    if value is True:
        return [[]]
    if not isinstance(value, list):
        return [[str(value)]]
    if option == "tags":
        return [[f"{key}={text}"] for key, text in value]
    words = [str(item) for item in value]
    if option == "log":
        return [[word] for word in words]
    joint = {"size": "x", "part": "/"}.get(option)
    return [[joint.join(words)]] if joint else [words]


def _invocations(run: RunDirectory) -> list[Invocation]:
    """The invocations that ended, in the order of their beginning."""
    contents = run.read_json_folder("attempts")
    contents.sort(key=lambda one: str(one.get("started_at", "")))
    return [_invocation(place, one) for place, one in enumerate(contents, start=1)]


def _invocation(place: int, content: Mapping[str, Any]) -> Invocation:
    resolved = content.get("resolved", {})
    command = str(content.get("command", "run"))
    return Invocation(
        number=place,
        id=str(content.get("invocation_id", "")),
        started_at=str(content.get("started_at", "")),
        outcome=str(content.get("outcome", "unknown")),
        complete=content.get("exit_code") == 0,
        images_made=content.get("images_made", 0),
        workers=content.get("workers", 0),
        workers_lost=content.get("workers_lost", 0),
        seconds=content.get("seconds", 0.0),
        hosts=content.get("hosts", []),
        numerics_ids=content.get("numerics_ids", []),
        repaired=content.get("repaired", []),
        tags=content.get("tags") or {},
        command=reproduce_command(command, content.get("asked", {})),
        num_samples=resolved.get("num_samples", 0),
        packages=content.get("packages", {}),
        git=content.get("git") or {},
    )


def _unrecorded(receipts: Iterable[ReceiptHead], invocations: Iterable[Invocation]) -> list[str]:
    """Ids of invocations that committed shards but left no file: killed, or still at work."""
    known = {one.id for one in invocations}
    ids = {receipt.attempt_id.partition("-")[0] for receipt in receipts}
    return sorted(ids - known)


def _software(invocations: Iterable[Invocation], records: Iterable[Record]) -> list[Software]:
    """Distinct sets of versions, each with the invocations and scorings that used it."""
    uses = [(f"invocation {one.number}", one.packages, one.git) for one in invocations]
    for record in records:
        about = record.provenance
        uses.append(
            (
                f"scoring {moment(record.created_at)}",
                about.get("packages", {}),
                about.get("git") or {},
            )
        )
    found: dict[bytes, Software] = {}
    for who, packages, git in uses:
        software = found.setdefault(canonical_json([packages, git]), Software([], packages, git))
        if who not in software.used_by:
            software.used_by.append(who)
    return list(found.values())


def moment(text: str) -> str:
    """`2026-01-31 12:00:00 UTC` of an ISO time; other text stays as it is."""
    try:
        return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M:%S %Z").strip()
    except ValueError:
        return text


def duration(seconds: float) -> str:
    """Seconds with the unit that reads best."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def file_size(num_bytes: int) -> str:
    """Bytes in decimal units."""
    size, units = float(num_bytes), ["bytes", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:,.0f} bytes" if units[0] == "bytes" else f"{size:.1f} {units[0]}"


def page_environment() -> Environment:
    """Templates with escaping on, and the filters that pages share."""
    environment = Environment(
        loader=PackageLoader("evalsuite.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "moment": moment,
        "duration": duration,
        "file_size": file_size,
        "count": lambda value: f"{value:,}",
    }
    return environment


def _script_sha256(environment: Environment) -> str:
    """The digest by which the page's own policy admits its one script and no other."""
    script = environment.get_template("report.js").render()
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()

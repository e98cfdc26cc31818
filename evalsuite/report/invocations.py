"""Invocations of a run as their files tell: what was asked, how it ended, on what it ran."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from evalsuite.artifacts.receipts import ReceiptHead
from evalsuite.artifacts.records import Record
from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.config import canonical_json
from evalsuite.pipeline.spending import invocation_of
from evalsuite.report.environment import moment


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


def reproduce_command(command: str, asked: Mapping[str, Sequence[Sequence[str]]]) -> str:
    """The command line that asks the same, one option on each line, quoted for a shell.

    Args:
        command: its name.
        asked: by option, for each time that it was given, the words behind it.
    """
    lines = [shlex.join(["evalsuite", command])]
    for option, times in asked.items():
        lines += [shlex.join([f"--{option}", *map(str, words)]) for words in times]
    return " \\\n  ".join(lines)


def invocations_of(run: RunDirectory) -> list[Invocation]:
    """The invocations that ended, in the order of their beginning."""
    contents = run.attempts()
    contents.sort(key=lambda one: str(one.get("started_at", "")))
    return [_invocation(place, one) for place, one in enumerate(contents, start=1)]


def unrecorded(receipts: Iterable[ReceiptHead], invocations: Iterable[Invocation]) -> list[str]:
    """Ids of invocations that committed shards but left no file: killed, or still at work."""
    known = {one.id for one in invocations}
    return sorted({invocation_of(receipt.attempt_id) for receipt in receipts} - known)


def software_of(invocations: Iterable[Invocation], records: Sequence[Record]) -> list[Software]:
    """Distinct sets of versions, each with the invocations and scorings that used it."""
    uses = [(f"invocation {one.number}", one.packages, one.git) for one in invocations]
    for record in records:
        about = record.provenance
        who = f"scoring {moment(record.created_at)}"
        uses.append((who, about.get("packages", {}), about.get("git") or {}))
    found: dict[bytes, Software] = {}
    for who, packages, git in uses:
        software = found.setdefault(canonical_json([packages, git]), Software([], packages, git))
        if who not in software.used_by:
            software.used_by.append(who)
    return list(found.values())


def _command(command: str, asked: Mapping[str, Any]) -> str:
    """The command line; without options, and saying so, where they were noted in another form."""
    known = all(
        isinstance(times, list) and all(isinstance(words, list) for words in times)
        for times in asked.values()
    )
    if known:
        return reproduce_command(command, asked)
    return f"{reproduce_command(command, {})} # its options were noted by another version"


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
        command=_command(command, content.get("asked", {})),
        num_samples=resolved.get("num_samples", 0),
        packages=content.get("packages", {}),
        git=content.get("git") or {},
    )

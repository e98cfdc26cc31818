"""A power cut: what a file system may lose of what was not flushed.

The model is that of crash-consistency testing: bytes of a file are durable up to its size at its
last `fsync`; its name is durable once the directory was synced after the name was made. Of the rest
each is lost or kept by chance. File systems in use give more (ext4 keeps the name of a file that
was itself synced): `strict=False` models that.
"""

import random
from pathlib import Path
from typing import Any, NamedTuple


class Loss(NamedTuple):
    """What one file lost."""

    path: str
    what: str


def cut(
    run: Path, events: list[dict[str, Any]], chance: random.Random, *, strict: bool
) -> list[Loss]:
    """Lose what was not durable in a run directory whose processes are all dead.

    Args:
        run: the run directory.
        events: the library's log of it.
        chance: decides for each file.
        strict: names are lost though the file was synced.

    Returns:
        What was lost.
    """
    durable_bytes, pending = replayed(events)
    losses = []
    for path in sorted(p for p in run.rglob("*") if p.is_file()):
        name = path.relative_to(run).as_posix()
        if name not in durable_bytes:
            continue  # it was there before the library was
        synced = durable_bytes[name]
        name_at_risk = name in pending and (strict or synced == 0)
        if name_at_risk and chance.random() < 0.5:
            path.unlink()
            losses.append(Loss(name, "name"))
        elif path.stat().st_size > synced and chance.random() < 0.8:
            whole = path.stat().st_size
            with path.open("r+b") as file:
                file.truncate(synced)
                if chance.random() < 0.5:
                    file.truncate(whole)  # the length was written, the bytes were not: zeros
            losses.append(Loss(name, f"bytes from {synced} on"))
    return losses


def replayed(events: list[dict[str, Any]]) -> tuple[dict[str, int], set[str]]:
    """Durable bytes of each file, and names that were made since their directory was synced."""
    durable_bytes: dict[str, int] = {}
    pending: set[str] = set()
    for event in events:
        op, path = event["op"], event["path"]
        if "rule" in event or event.get("result"):
            continue
        if op == "create":
            durable_bytes[path] = 0
            pending.add(path)
        elif op == "fsync":
            durable_bytes[path] = event["size"]
        elif op in {"link", "rename"}:
            durable_bytes[path] = durable_bytes.get(event["from"], 0)
            pending.add(path)
        elif op == "syncdir":
            pending = {p for p in pending if p.rpartition("/")[0] != path}
    return durable_bytes, pending

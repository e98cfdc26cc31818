"""The rules by which two protocols relate, field by field."""

from typing import Any

import pytest

from evalsuite.artifacts.records import Protocol, Record
from evalsuite.errors import UsageError
from evalsuite.pipeline.comparability import (
    Comparability,
    Kind,
    Side,
    canonical_field,
    comparability,
    declare,
    parse_declaration,
    parse_declarations,
)

FID: dict[str, Any] = {
    "metric": "fid",
    "num_samples": 50_000,
    "extractor": "inception-2015-12-05-01234567",
    "extractor_sha256": "a" * 64,
    "resize": "tf1-bilinear",
    "precision": "float32",
    "backend": "torch",
    "reference_sha256": "b" * 64,
    "details": {},
    "label_rule": "modulo",
    "uint8_rule": "half_up",
    "codec": "lossless",
}
PRECISION = FID | {"metric": "precision", "details": {"k": 3, "arithmetic": "adm-float16"}}
SCORE = FID | {
    "metric": "inception_score",
    "details": {"split_size": 5000, "order": "sample_index", "bias": "none"},
}
UNKNOWN = {"label_rule": None, "uint8_rule": None, "codec": None}


def side(
    base: dict[str, Any] = FID, declared: Any = None, classes: int | None = 1000, **c: Any
) -> Side:
    return Side(Protocol(**(base | c)), declared or {}, classes)


def related(a: Side, b: Side, *allowed: str) -> Comparability:
    """Both ways round, which must agree but for the order of values."""
    found, turned = comparability(a, b, allowed), comparability(b, a, allowed)
    assert [(r.field, r.kind, r.effect) for r in found.relations] == [
        (r.field, r.kind, r.effect) for r in turned.relations
    ]
    assert [(r.a, r.b) for r in found.relations] == [(r.b, r.a) for r in turned.relations]
    return found


@pytest.mark.parametrize("base", [FID, PRECISION, SCORE])
def test_equal_protocols_have_no_relations(base: dict[str, Any]) -> None:
    found = related(side(base), side(base))
    assert found.relations == ()
    assert found.ranked


@pytest.mark.parametrize(
    ("base", "change", "field", "effect"),
    [
        (FID, {"num_samples": 10_000}, "num_samples", "5.2 from 30,000 images was 4.9"),
        (FID, {"reference_sha256": "c" * 64}, "reference_sha256", "0.08"),
        (FID, {"label_rule": "random:0"}, "label_rule", "about 0.1 FID (1.07 and 1.19"),
        (FID, {"codec": "lossy"}, "codec", "13.74 and 11.18"),
        (FID, {"extractor": "digits-convnet-89abcdef"}, "extractor", "scales of their own"),
        (FID, {"precision": "bfloat16"}, "precision", "not measured"),
        (FID, {"resize": "bilinear"}, "resize", "10 to 20 %"),
        (FID, {"uint8_rule": "half_even"}, "uint8_rule", "not measured"),
        (FID, {"uint8_rule": "truncate"}, "uint8_rule", "half a grey level"),
        (FID, {"sample_resize": "adm-crop:256"}, "sample_resize", "other images"),
        (FID, {"backend": "jax"}, "backend", "not measured"),
        (
            PRECISION,
            {"details": {"k": 3, "arithmetic": "float32"}},
            "details.arithmetic",
            "0.001 to 0.016",
        ),
        (PRECISION, {"details": PRECISION["details"] | {"k": 5}}, "details.k", "another metric"),
        (
            PRECISION,
            {"details": PRECISION["details"] | {"strict": True}},
            "details.strict",
            "radius",
        ),
        (SCORE, {"label_rule": "blocked:50"}, "label_rule", "278 shuffled was 94 sorted"),
    ],
)
def test_a_known_difference_is_refused_with_its_effect(
    base: dict[str, Any], change: dict[str, Any], field: str, effect: str
) -> None:
    found = related(side(base), side(base, **change))
    (relation,) = found.refusals
    assert relation.field == field
    assert effect in relation.effect
    assert relation.a != relation.b
    assert not found.ranked
    allowed = related(side(base), side(base, **change), field)
    assert allowed.refusals == ()
    assert [r.field for r in allowed.caveats] == [field]
    assert not allowed.ranked


def test_an_allowed_field_does_not_allow_another() -> None:
    found = related(side(), side(codec="lossy", label_rule="random:0"), "codec")
    assert [r.field for r in found.caveats] == ["codec"]
    assert [r.field for r in found.refusals] == ["label_rule"]


@pytest.mark.parametrize(
    ("base", "agreement"), [(FID, "5e-5"), (SCORE, "5e-6"), (PRECISION, "3 of N")]
)
def test_backends_agree_within_what_is_said(base: dict[str, Any], agreement: str) -> None:
    found = related(side(base), side(base, backend="tensorflow"))
    (relation,) = found.remarks
    assert relation.kind is Kind.EQUIVALENT
    assert agreement in relation.effect
    assert found.ranked


@pytest.mark.parametrize("ours", [{}, UNKNOWN])
def test_unknown_sampling_is_compared_but_not_ranked(ours: dict[str, Any]) -> None:
    found = related(side(**ours), side(**UNKNOWN))
    assert found.refusals == ()
    assert [r.field for r in found.unknown] == ["label_rule", "uint8_rule", "codec"]
    assert not found.ranked


def test_a_declared_field_counts_and_says_so() -> None:
    declared = {"label_rule": "balanced", "uint8_rule": "half_up", "codec": "lossless"}
    found = related(side(), side(declared=declared, **UNKNOWN))
    assert found.ranked
    assert {r.field for r in found.remarks} == set(declared)
    assert all("declared, not verified" in r.a + r.b for r in found.remarks)
    other = related(side(), side(declared=declared | {"label_rule": "random"}, **UNKNOWN))
    assert [r.field for r in other.refusals] == ["label_rule"]


@pytest.mark.parametrize(
    ("a", "b", "kind"),
    [
        ("modulo", "blocked:50", Kind.EQUIVALENT),
        ("modulo", "blocked:100", Kind.DIFFERENT),  # 50,000 images are 500 of 1,000 classes
        ("modulo", "balanced", Kind.EQUIVALENT),
        ("random:0", "random:1", Kind.EQUIVALENT),
        ("random", "random:1", Kind.EQUIVALENT),
        ("balanced", "random", Kind.DIFFERENT),
        ("modulo", "modulo of 1,2", Kind.DIFFERENT),
        ("modulo of 1,2", "modulo of 1,3", Kind.DIFFERENT),
        ("file:01234567", "modulo", Kind.DIFFERENT),
        ("file:01234567", "file:89abcdef", Kind.DIFFERENT),
    ],
)
def test_label_rules_are_related_by_what_they_give(a: str, b: str, kind: Kind) -> None:
    (relation,) = related(side(label_rule=a), side(label_rule=b)).relations
    assert relation.kind is kind


def test_blocks_of_an_unknown_number_of_classes_are_not_taken_for_balanced() -> None:
    found = related(side(), side(label_rule="blocked:50", classes=None))
    assert [r.field for r in found.refusals] == ["label_rule"]


def test_order_matters_only_where_splits_are_in_order() -> None:
    declared = {"label_rule": "balanced"}
    (unknown,) = related(side(SCORE), side(SCORE, declared, label_rule=None)).relations
    assert unknown.kind is Kind.UNKNOWN
    shuffled = SCORE | {"details": {"even_splits": 10, "order": "shuffled by RandomState(2020)"}}
    whole = SCORE | {"num_samples": 5000}
    for base, blocks in ((shuffled, "blocked:50"), (whole, "blocked:5")):
        (relation,) = related(side(base), side(base, label_rule=blocks)).relations
        assert relation.kind is Kind.EQUIVALENT


def test_of_an_extractor_the_cause_is_named_and_not_its_hash() -> None:
    other = side(extractor="inception-2015-12-05-89abcdef", precision="bfloat16")
    assert [r.field for r in related(side(), other).refusals] == ["precision"]
    batch = side(extractor="inception-2015-12-05-89abcdef")
    assert [r.field for r in related(side(), batch).refusals] == ["extractor"]


def test_two_metrics_never_meet() -> None:
    with pytest.raises(ValueError, match="two metrics"):
        comparability(side(), side(PRECISION))


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("labels", "label_rule"),
        ("N", "num_samples"),
        ("reference", "reference_sha256"),
        ("k", "details.k"),
        ("details.zeros", "details.zeros"),
        ("codec", "codec"),
        ("seeds", "seeds"),
    ],
)
def test_fields_have_short_names(text: str, field: str) -> None:
    assert canonical_field(text) == field


def test_an_unknown_field_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'codec'"):
        canonical_field("codek")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("labels=blocked:50", ("label_rule", "blocked:50")),
        ("labels=random", ("label_rule", "random")),
        ("uint8=half_up", ("uint8_rule", "half_up")),
        ("codec=lossy", ("codec", "lossy")),
    ],
)
def test_declarations_are_read(text: str, expected: tuple[str, str]) -> None:
    assert parse_declaration(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *(
            "labels",
            "labels=",
            "labels=file",
            "labels=blocked",
            "labels=modulo:2",
            "labels=random:x",
        ),
        *("label=modulo", "uint8=up", "codec=jpeg", "precision=float32"),
    ],
)
def test_a_declaration_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_declaration(text)


def test_contradicting_declarations_are_refused() -> None:
    assert parse_declarations(["labels=random", "labels=random"]) == {"label_rule": "random"}
    with pytest.raises(UsageError, match="both random and modulo"):
        parse_declarations(["labels=random", "labels=modulo"])


def record(**changes: Any) -> Record:
    protocol = Protocol(**(FID | changes))
    return Record(
        metric="fid",
        display="FID-50K",
        better="lower",
        value=2.0,
        standard_error=0.01,
        extrapolated=None,
        notes=(),
        protocol=protocol,
        protocol_id=protocol.protocol_id,
        reference="adm-imagenet-256",
        samples={},
        provenance={},
        cost={},
        created_at="2026-01-01T00:00:00+00:00",
    )


def test_what_is_declared_stays_in_the_record_and_out_of_its_id() -> None:
    (stated,) = declare([record(**UNKNOWN)], {"label_rule": "balanced"})
    again = Record.model_validate_json(stated.model_dump_json())
    assert again.declared == {"label_rule": "balanced"}
    assert again.protocol_id == again.protocol.protocol_id == record(**UNKNOWN).protocol_id


def test_what_is_known_cannot_be_declared() -> None:
    with pytest.raises(UsageError, match="known to be modulo"):
        declare([record()], {"label_rule": "modulo"})
    stated = declare([record(**UNKNOWN)], {"label_rule": "balanced"})
    with pytest.raises(UsageError, match="declared to be balanced"):
        declare(stated, {"label_rule": "random"})


def test_records_of_before_declarations_are_read() -> None:
    content = record().model_dump(mode="json")
    del content["declared"]
    assert Record.model_validate(content).declared == {}

"""A number beside a claim: the band, the errors, and what forbids a verdict."""

import math
from pathlib import Path

import pytest
from board_kit import make_record, outside_record, plan_of

from evalsuite.artifacts.manifest import Manifest
from evalsuite.artifacts.records import Record
from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.config import Claim, GuideModel, LabelRule, ModelPreset, load_claims, load_spec
from evalsuite.pipeline.claims import (
    ClassCounts,
    Reproduction,
    beside_claim,
    changed_settings,
    class_counts,
    contradicts,
    settings_of,
)

MODEL = "pixnerd-xl-256"
INCEPTION = "inception-2015-12-05"


def claim_of(fid: float) -> Claim:
    (found,) = [c for c in load_claims() if c.preset == MODEL and c.fid == fid]
    return found


def beside(record: Record, claim: Claim | None = None, **asked: object) -> Reproduction:
    found = beside_claim(record, plan_of(MODEL, **asked), MODEL, claim or claim_of(1.93))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("value", "error", "inside", "band"),
    [
        (1.95, 0.001, True, 0.013 * 1.93),  # 1.3 % is larger
        (1.96, 0.001, False, 0.013 * 1.93),
        (1.96, 0.02, True, 1.96 * math.sqrt(2) * 0.02),  # the sampling error is
        (1.87, 0.02, False, 1.96 * math.sqrt(2) * 0.02),
        (1.91, None, True, 0.013 * 1.93),  # inside whatever its error is
    ],
)
def test_the_band_is_the_larger_of_two(
    value: float, error: float | None, inside: bool, band: float
) -> None:
    found = beside(make_record(value, error))
    assert found.inside is inside
    assert found.verdict == ("inside" if inside else "outside")
    assert found.band == pytest.approx(band)
    assert found.difference == pytest.approx(value - 1.93)
    if error is None:
        assert found.in_errors is None
    else:
        assert found.in_errors == pytest.approx((value - 1.93) / (math.sqrt(2) * error))


def test_without_a_standard_error_nothing_is_outside() -> None:
    """One of 0.02 would have put 1.96 inside."""
    found = beside(make_record(1.96, None))
    assert found.verdict == "no verdict"
    assert found.obstacles == (
        "no standard error is known, and the gap is over 1.3 % of the claim",
    )
    assert beside(make_record(0.5, None, metric="precision")).obstacles == ()  # has no band at all


@pytest.mark.parametrize("value", [1.94, 2.16])
def test_a_claim_of_another_checkpoint_gets_no_verdict(value: float) -> None:
    """Neither does the released file miss it, nor does a failed reproduction meet it."""
    found = beside(make_record(value), claim_of(2.15))
    assert found.verdict == "no verdict"
    assert found.obstacles == (
        "the claim is of another checkpoint than the released one of pixnerd-xl-256",
    )
    outside = beside_claim(outside_record(value), None, None, claim_of(2.15))
    assert outside is not None
    assert outside.verdict == "no verdict"


def test_weights_that_nobody_released_are_a_difference_and_unknown_ones_are_said() -> None:
    model = "pixnerd-l-256"
    (claim,) = [c for c in load_claims() if c.preset == model and c.fid == 2.64]
    plan = plan_of(model, num_steps=50)
    found = beside_claim(make_record(2.65, plan=plan), plan, model, claim)
    assert found is not None
    assert found.inside is True
    assert found.differing == ("weights: those of the claim were never released",)
    quoted = beside(make_record(1.94), claim_of(1.95))
    assert quoted.inside is True
    assert "checkpoint" in quoted.unstated


def test_published_settings_differ_in_nothing() -> None:
    found = beside(make_record(1.93))
    assert (found.obstacles, found.differing) == ((), ())
    assert found.unstated == ("weights_sha256", "labels")  # nobody pins or says them


def test_settings_that_differ_are_named_and_leave_a_verdict() -> None:
    found = beside(make_record(1.93), guidance_scale=3.0, num_steps=50)
    assert found.inside is True
    assert found.differing == (
        "nfe: 50, the claim's 100",
        "guidance_scale: 3, the claim's 3.5",
    )
    unguided = beside(make_record(15.6), claim_of(15.61))
    assert unguided.differing == ("guidance_scale: 3.5, the claim's 1",)
    assert unguided.unstated == ("nfe", "timeshift", "checkpoint", "weights_sha256", "labels")


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (make_record(1.93, num_samples=10_000), "N is 10,000, the claim's 50,000"),
        (make_record(1.93, protocol="jit"), "the claim is by protocol adm, this number by jit"),
        (make_record(1.93, reference="mine"), "by adm against mine"),
        (make_record(1.93, extractor="mine-01234567"), "the claim is by protocol adm"),
        (make_record(1.93, extractor=f"{INCEPTION}-01234567"), "the claim is by protocol adm"),
        (make_record(1.93, extractor_sha256="34" * 32), "the claim is by protocol adm"),
        (make_record(None, None), "the value is undefined"),
    ],
)
def test_what_must_not_be_compared_gets_no_verdict(record: Record, said: str) -> None:
    found = beside(record)
    assert found.inside is None
    assert found.verdict == "no verdict"
    assert said in "; ".join(found.obstacles)


def test_claims_without_a_known_protocol_or_with_other_labels_get_none() -> None:
    quoted = claim_of(1.93).model_copy(update={"protocol": "as quoted"})
    assert "none that is known" in beside(make_record(1.93), quoted).obstacles[0]
    labels = claim_of(1.93).model_copy(update={"protocol": "adm-tf (50k); random labels"})
    assert "about 0.1 FID" in beside(make_record(1.93), labels).obstacles[0]
    random = plan_of(MODEL, labels=LabelRule(rule="random", seed=1))
    found = beside_claim(make_record(1.93, plan=random), random, MODEL, labels)
    assert found is not None
    assert found.obstacles == ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"classes": (207,)}, "the samples are of chosen classes (1 of 1000), the claim of all"),
        ({"labels": LabelRule(rule="file", sha256="ab" * 32)}, "labels are file:abababab"),
        ({"labels": LabelRule(rule="blocked", per_class=500)}, "uneven classes"),
        ({"size": (256, 128)}, "images are 256 x 128, the claim's 256 x 256"),
    ],
)
def test_other_samples_than_the_claims_get_no_verdict(changes: dict, said: str) -> None:
    plan = plan_of(MODEL).model_copy(update=changes)
    record = make_record(1.93, plan=plan, reference="adm-imagenet-256")
    found = beside_claim(record, plan, MODEL, claim_of(1.93))
    assert found is not None
    assert found.verdict == "no verdict"
    assert said in "; ".join(found.obstacles)


def test_labels_of_a_file_are_what_their_counts_say() -> None:
    """Balanced ones are as any balanced ones; of a file that nobody has nothing is known."""
    plan = plan_of(MODEL, labels=LabelRule(rule="file", sha256="ab" * 32))
    record = make_record(1.93, plan=plan, reference="adm-imagenet-256")
    random = claim_of(1.93).model_copy(update={"protocol": "adm-tf (50k); random labels"})

    def obstacles(claim: Claim, counts: ClassCounts | None) -> str:
        found = beside_claim(record, plan, MODEL, claim, counts=counts)
        assert found is not None
        return "; ".join(found.obstacles)

    even, uneven = ClassCounts(50, 50), ClassCounts(12, 90)
    assert obstacles(claim_of(1.93), even) == ""
    assert "which are balanced, the claim's random: that alone" in obstacles(random, even)
    for claim in (claim_of(1.93), random):
        assert "12 to 90 of a class; claims are of balanced or" in obstacles(claim, uneven)
        assert "whose counts are not known" in obstacles(claim, None)
        assert "0.1 FID" not in obstacles(claim, uneven) + obstacles(claim, None)
        assert not contradicts("file:abababab", claim)
    assert contradicts("modulo", random)


def test_the_classes_of_a_label_file_are_counted(tmp_path: Path) -> None:
    plan = plan_of(MODEL, labels=LabelRule(rule="file", sha256="ab" * 32))
    manifest = Manifest(
        model=MODEL, plan_id=plan.plan_id, plan=plan, class_names=None, prompts=None,
        file_labels=tuple(range(1000)) * 2, formats={}, created_at="2026-01-31T12:00:00+00:00",
    )  # fmt: skip
    run = RunDirectory.create_or_open(tmp_path / "run", manifest)
    assert class_counts(run, 2000) == (2, 2)
    assert class_counts(run, 1500) == (1, 2)
    assert class_counts(run, 999) == (0, 1)
    assert class_counts(run, 3000) is None


def test_other_weights_are_settings_that_differ() -> None:
    """Here of a preset that pins its weights, as a person's own does."""
    preset = load_spec(ModelPreset, MODEL)
    pinned = preset.weights.model_copy(update={"sha256": "ab" * 32})
    preset = preset.model_copy(update={"weights": pinned})
    plan = plan_of(MODEL)
    other = plan.model_copy(update={"weights_sha256": "99" * 32, "ema": "raw"})
    same = plan.model_copy(update={"ema": "averaged"})
    another = plan.model_copy(update={"ema": "averaged_model"})  # as of torch's AveragedModel
    guide = GuideModel(
        family=plan.family, network={}, weights_sha256="cd" * 32, ema="raw", condition="null"
    )
    guided = plan.model_copy(update={"guide": guide})
    said = {
        one.plan_id: beside_claim(make_record(1.93, plan=one), one, MODEL, claim_of(1.93), preset)
        for one in (plan, other, same, another, guided)
    }
    differing = [one.differing for one in said.values() if one is not None]
    assert differing == [
        (),
        (
            "weights: SHA-256 999999999999, the preset's abababababab",
            "ema: raw, the preset's ema_denoiser",
        ),
        (),
        ("ema: averaged_model, the preset's ema_denoiser",),
        ("guide: a weaker model, the claim's none",),
    ]


def test_only_fid_has_a_band() -> None:
    found = beside(make_record(0.8, 0.002, metric="precision"))
    assert found.claimed == 0.8
    assert found.band is None
    assert found.inside is None
    assert beside_claim(make_record(1.0, metric="kid"), None, MODEL, claim_of(1.93)) is None


@pytest.mark.parametrize(
    ("changes", "protocol", "scale"),
    [
        ({"protocol": ";"}, None, 3.5),
        ({"guidance": "nan"}, "adm", None),
        ({"guidance": "inf"}, "adm", None),
    ],
)
def test_odd_words_of_a_claim_are_words(
    changes: dict, protocol: str | None, scale: float | None
) -> None:
    claim = claim_of(1.93).model_copy(update=changes)
    assert (claim.protocol_of("fid"), claim.guidance_scale) == (protocol, scale)


def test_samples_of_others_stand_beside_a_claim_too() -> None:
    found = beside_claim(outside_record(1.93), None, None, claim_of(1.93))
    assert found is not None
    assert found.inside is True
    assert found.differing == ()


@pytest.mark.parametrize(
    ("model", "nfe"),
    [("pixnerd-xl-256", 100), ("pixelgen-xl-256", 99), ("jit-h-16-256", 99), (MODEL, 100)],
)
def test_evaluations_are_counted_as_papers_count(model: str, nfe: int) -> None:
    """A guided pair once: so plans and claims of the same settings agree."""
    preset = load_spec(ModelPreset, model)
    settings = settings_of(plan_of(model), model)
    assert settings.nfe == nfe
    assert settings.params_m == pytest.approx((preset.parameters or 0) / 1e6)


def test_settings_that_are_not_the_presets_are_named() -> None:
    preset = load_spec(ModelPreset, MODEL)
    assert changed_settings(plan_of(MODEL), preset) == []
    changed = changed_settings(plan_of(MODEL, guidance_scale=2.0, dtype="float32"), preset)
    assert changed == [
        "guidance_scale: 2, the preset's 3.5",
        "dtype: float32, the preset's bfloat16",
    ]

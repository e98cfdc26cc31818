"""What may stand in one table, in which places, and what is a tie."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest
from board_kit import make_record, outside_record, plan_of, write_records

from evalsuite.artifacts.records import Record
from evalsuite.config import LabelRule, load_claims
from evalsuite.errors import CorruptionError, DataError, UsageError
from evalsuite.pipeline.comparison_inputs import entries_for_board, letters, open_entry
from evalsuite.pipeline.leaderboard import Group, Section, build_board
from evalsuite.seeding import REPLICATE_STRIDE

RANDOM = LabelRule(rule="random", seed=1)


@pytest.fixture
def groups(tmp_path: Path):
    """`groups(records)` reads each from a file of its own, as a person would give them."""

    def build(records: Sequence[Record]) -> list[Group]:
        return [group for section in board(tmp_path, records) for group in section.groups]

    return build


def board(folder: Path, records: Sequence[Record], claims: Sequence = ()) -> list[Section]:
    entries = [
        open_entry(name, write_records(folder / f"{name}.json", record))
        for name, record in zip(letters(len(records)), records, strict=True)
    ]
    return build_board(entries, claims)


def scale(value: float, guidance_scale: float, error: float | None = 0.001, **changes) -> Record:
    """A record of another plan, whose seeds are apart from all others'."""
    seed = round(guidance_scale * 1000) * 10**6
    plan = plan_of("pixnerd-xl-256", first_seed=seed, guidance_scale=guidance_scale)
    return make_record(value, error, plan=plan, **changes)


def places(group: Group) -> list[tuple[float | None, tuple[int, int] | None]]:
    return [(row.record.value, row.places) for row in group.rows]


def test_clear_gaps_give_places(groups) -> None:
    (group,) = groups([scale(3.0, 2.0), scale(2.0, 3.0), scale(2.5, 4.0)])
    assert places(group) == [(2.0, (1, 1)), (2.5, (2, 2)), (3.0, (3, 3))]
    assert all(row.ties == () for row in group.rows)


def test_a_gap_under_the_interval_is_a_tie(groups) -> None:
    """0.05 against 1.96 * hypot(0.03, 0.03) = 0.083, though it is 2.5 %."""
    (group,) = groups([scale(2.0, 2.0, 0.03), scale(2.05, 3.0, 0.03), scale(2.5, 4.0, 0.03)])
    assert places(group) == [(2.0, (1, 2)), (2.05, (1, 2)), (2.5, (3, 3))]
    assert group.rows[0].ties == (group.rows[1].id,)


def test_a_gap_under_what_retraining_gives_is_a_tie(groups) -> None:
    """1.61 and 1.60 are 0.6 % apart, however small the sampling error; 1.61 and 1.64 are not."""
    (group,) = groups([scale(1.61, 2.0, 1e-5), scale(1.60, 3.0, 1e-5), scale(1.64, 4.0, 1e-5)])
    assert places(group) == [(1.6, (1, 2)), (1.61, (1, 2)), (1.64, (3, 3))]


def test_ties_need_not_carry_over(groups) -> None:
    """A is as B, B is as C, A is not as C: places overlap and say just that."""
    (group,) = groups([scale(2.0, 2.0), scale(2.02, 3.0), scale(2.04, 4.0)])
    assert places(group) == [(2.0, (1, 2)), (2.02, (1, 3)), (2.04, (2, 3))]


def test_no_interval_is_a_tie_and_undefined_has_no_place(groups) -> None:
    bare = scale(9.0, 3.0).model_copy(update={"standard_error": None}).sealed()
    nothing = scale(1.0, 4.0).model_copy(update={"value": None, "standard_error": None}).sealed()
    (group,) = groups([scale(2.0, 2.0), bare, nothing])
    assert places(group) == [(2.0, (1, 2)), (9.0, (1, 2)), (None, None)]


def test_records_of_several_plans_in_one_file_are_each_their_own(tmp_path: Path) -> None:
    """Also where one is of another model: its name, its settings and its claims are its own."""
    ours = make_record(1.94, plan=plan_of("pixnerd-xl-256", guidance_scale=2.0))
    large = "pixnerd-l-256"
    theirs = make_record(2.6, plan=plan_of(large, 10**9, guidance_scale=4.0), model=large)
    path = write_records(tmp_path / "both.json", ours, theirs)
    sections = build_board(entries_for_board(path), load_claims())
    (group,) = next(s for s in sections if s.key == "fid/adm/256").groups
    assert [(row.name, row.settings.guidance_scale) for row in group.rows] == [
        ("pixnerd-xl-256", 2.0),
        (large, 4.0),
    ]
    assert {one.claim.preset for one in group.rows[1].beside} == {large}
    with pytest.raises(UsageError, match=f"{ours.samples['plan_id'][:12]} of pixnerd-xl-256 and"):
        open_entry("A", path)


def test_outside_samples_of_one_file_name_are_each_their_own(tmp_path: Path) -> None:
    """Also by equal values: what is told apart by pixels is no second scoring."""
    stated = {"label_rule": "balanced", "uint8_rule": "half_up", "codec": "lossless"}
    records = []
    for value, pixels in ((2.0, "00"), (3.0, "11"), (3.0, "22")):
        samples = {"path": "samples.npz", "pixels_digest": pixels * 32}
        unknown = dict.fromkeys(stated)
        records.append(make_record(value, declared=stated, samples=samples, **unknown))
    path = write_records(tmp_path / "all.json", *records)
    entries = entries_for_board(path)
    assert len(entries) == 3
    (section,) = build_board(entries, [])
    assert places(section.groups[0]) == [(2.0, (1, 1)), (3.0, (2, 3)), (3.0, (2, 3))]
    assert section.groups[0].rows[0].apart == "by torch, pixels 00000000"
    with pytest.raises(UsageError, match=r"\(pixels 0{12}\) and samples.npz \(pixels 1{12}\)"):
        open_entry("A", path)


def test_higher_may_be_better(groups) -> None:
    records = [scale(300.0, 2.0, 1.0, metric="inception_score")]
    records += [scale(280.0, 3.0, 1.0, metric="inception_score")]
    (group,) = groups(records)
    assert places(group) == [(300.0, (1, 1)), (280.0, (2, 2))]


def test_seeds_that_overlap_are_never_ranked(groups) -> None:
    near = make_record(9.0, 0.001, plan=plan_of("pixnerd-xl-256", 1000, guidance_scale=1.0))
    (group,) = groups([make_record(2.0, 0.001), near])
    assert places(group) == [(2.0, (1, 2)), (9.0, (1, 2))]


@pytest.mark.parametrize(
    "other",
    [
        {"num_samples": 10_000},
        {"reference_sha256": "34" * 32},
        {"resize": "pillow-bicubic"},
        {"precision": "bfloat16"},
        {"protocol": "jit"},
        {"codec": "lossy"},
        {"uint8_rule": "half_even"},
    ],
)
def test_what_is_known_to_differ_is_in_another_group(groups, other: dict) -> None:
    found = groups([scale(2.0, 2.0), scale(1.0, 3.0, **other)])
    assert len(found) == 2
    assert [row.places for group in found for row in group.rows] == [(1, 1), (1, 1)]


def test_random_and_balanced_labels_are_two_groups(groups) -> None:
    random = make_record(1.0, plan=plan_of("pixnerd-xl-256", 10**9, labels=RANDOM))
    assert len(groups([scale(2.0, 2.0), random])) == 2


def test_backends_that_agree_stand_together(groups) -> None:
    (group,) = groups([scale(2.0, 2.0), scale(2.5, 3.0, backend="tensorflow")])
    assert [row.places for row in group.rows] == [(1, 1), (2, 2)]


def test_unknown_fields_are_a_dagger_without_a_place(groups) -> None:
    (group,) = groups([scale(2.0, 2.0), outside_record(1.0)])
    known, unknown = group.rows
    assert (known.places, known.dagger) == ((1, 1), ())
    assert (unknown.places, unknown.dagger) == (None, ("label_rule", "uint8_rule", "codec"))
    assert unknown.name == "theirs.npz"


def test_unknown_fields_that_fit_two_groups_stand_apart(groups) -> None:
    random = make_record(1.0, plan=plan_of("pixnerd-xl-256", 10**9, labels=RANDOM))
    found = groups([scale(2.0, 2.0), random, outside_record(1.5)])
    assert len(found) == 3
    assert [row.dagger != () for group in found for row in group.rows].count(True) == 1


def test_two_unknown_rows_that_differ_in_what_is_known_stand_apart(groups) -> None:
    half = {"samples": {"path": "a.npz"}, "codec": None, "uint8_rule": None}
    modulo, random = (make_record(1.0, label_rule=rule, **half) for rule in ("modulo", "random:1"))
    found = groups([modulo, random])
    assert [len(group.rows) for group in found] == [1, 1]
    assert all(row.dagger == ("uint8_rule", "codec") for g in found for row in g.rows)


def test_a_declaration_fills_the_gap(groups) -> None:
    stated = {"label_rule": "balanced", "uint8_rule": "half_up", "codec": "lossless"}
    theirs = outside_record(1.0).model_copy(update={"declared": stated}).sealed()
    (group,) = groups([scale(2.0, 2.0), theirs])
    assert [row.places for row in group.rows] == [(1, 1), (2, 2)]
    declared = tuple(map(" ".join, stated.items()))
    assert [(row.id, row.declared) for row in group.rows] == [
        ("theirs.npz", declared),
        (group.rows[1].id, ()),
    ]


def test_what_is_known_is_not_called_declared(groups) -> None:
    """Whatever a record says of itself."""
    stated = {"codec": "lossy", "num_samples": "7", "colour": "red"}
    (group,) = groups([scale(2.0, 2.0).model_copy(update={"declared": stated}).sealed()])
    assert group.rows[0].declared == ()


def test_what_was_scored_again_is_one_row(groups) -> None:
    """The last bits of a number and its date may differ; another number contradicts it."""
    late = scale(2.0 * (1 + 1e-12), 2.0, created_at="2026-02-01T00:00:00+00:00")
    for records in ([scale(2.0, 2.0), late], [late, scale(2.0, 2.0)]):
        (group,) = groups(records)
        assert [row.record.created_at for row in group.rows] == [late.created_at]
    said = r"A.json and .*B.json contradict .* on FID-50K of plan \w+: value"
    with pytest.raises(DataError, match=said):
        groups([scale(2.0, 2.0), scale(2.1, 2.0)])


def test_two_errors_of_one_plan_are_refused(groups) -> None:
    """What was spent may differ, and last digits of an error; the error itself may not.

    Where one has none, as of an earlier version, the other is shown, whichever came later.
    """
    first, again = scale(2.0, 2.0, 0.01), scale(2.0, 2.0, 0.01 * (1 + 1e-9), gpu_hours=0.5)
    (group,) = groups([first, again])
    assert places(group) == [(2.0, (1, 1))]
    with pytest.raises(DataError, match=r"on FID-50K .*: standard_error \(0.01, 0.0\)"):
        groups([first, scale(2.0, 2.0, 0.0)])
    between = scale(2.0, 2.0, None)  # agrees with both
    for records in itertools.permutations([first, between, scale(2.0, 2.0, 0.02)]):
        with pytest.raises(DataError, match="contradict each other"):
            groups(records)
    late = "2026-02-01T00:00:00+00:00"
    for other in (
        scale(2.0, 2.0, None, created_at=late),
        scale(2.0, 2.0, 0.01, extrapolated=1.5, created_at=late),
    ):
        for records in ([first, other], [other, first]):
            (group,) = groups(records)
            assert [row.record.standard_error for row in group.rows] == [0.01]


def of_numerics(value: float, *ids: str, **changes) -> Record:
    """A record of one plan whose samples were made by these kinds of machine."""
    samples = make_record(value).samples | {"numerics_ids": list(ids)}
    return make_record(value, 0.001, samples=samples, **changes)


def test_one_plan_on_two_kinds_of_gpu_is_two_rows_that_tie(groups) -> None:
    """The same bits are promised within one numerics id alone."""
    (group,) = groups([of_numerics(2.0, "aa" * 32), of_numerics(2.3, "bb" * 32)])
    assert places(group) == [(2.0, (1, 2)), (2.3, (1, 2))]
    assert [row.apart for row in group.rows] == [
        "by torch, numerics aaaaaaaa",
        "by torch, numerics bbbbbbbb",
    ]
    with pytest.raises(DataError, match="contradict each other on FID-50K"):
        groups([of_numerics(2.0, "aa" * 32), of_numerics(2.3, "aa" * 32)])


SHARED = plan_of("pixnerd-xl-256", guidance_scale=2.0)


def replicate(value: float, place: int, error: float = 0.001) -> Record:
    plan = plan_of("pixnerd-xl-256", place * REPLICATE_STRIDE, guidance_scale=2.0)
    return make_record(value, error, plan=plan)


def test_replicates_of_one_configuration_are_a_tie_and_say_so(groups) -> None:
    """Also where their gap exceeds its interval: it is luck, and says nothing of a setting."""
    (group,) = groups([replicate(2.0, 0), replicate(2.2, 1), scale(3.0, 4.0)])
    assert places(group) == [(2.0, (1, 2)), (2.2, (1, 2)), (3.0, (3, 3))]
    first, second, other = group.rows
    assert other.replicates is None
    assert first.replicates is second.replicates
    assert first.replicates is not None
    assert first.replicates.ids == (first.id, second.id)
    assert first.replicates.mean == pytest.approx(2.1)
    assert first.replicates.standard_error == pytest.approx(0.001 / 2**0.5)
    assert (first.first_seed, second.first_seed) == (0, REPLICATE_STRIDE)


def test_one_plan_by_two_backends_is_no_replicate(groups) -> None:
    """A tie; beside another range of seeds it counts once, and so do seeds that overlap."""
    twice = [replicate(2.0, 0), make_record(2.1, 0.001, plan=SHARED, backend="tensorflow")]
    (group,) = groups(twice)
    assert places(group) == [(2.0, (1, 2)), (2.1, (1, 2))]
    assert [(row.replicates, row.apart) for row in group.rows] == [
        (None, "by torch"),
        (None, "by tensorflow"),
    ]
    overlapping = make_record(9.0, plan=plan_of("pixnerd-xl-256", 1000, guidance_scale=2.0))
    (group,) = groups([*twice, replicate(2.25, 1), overlapping])
    first, second, third, other = group.rows
    assert other.replicates is None
    assert first.replicates is second.replicates is third.replicates
    assert first.replicates is not None
    assert first.replicates.ids == (first.id, third.id)
    assert first.replicates.mean == pytest.approx((2.05 + 2.25) / 2)


def test_the_best_of_several_replicates_wins_nothing(groups) -> None:
    """One of them is ahead of the other configuration and one behind: that decides nothing."""
    (group,) = groups([replicate(2.0, 0), replicate(2.4, 1), scale(2.2, 4.0)])
    assert [place for _, place in places(group)] == [(1, 3)] * 3


def test_claims_stand_in_the_section_of_their_protocol(tmp_path: Path) -> None:
    sections = board(tmp_path, [make_record(1.94), make_record(1.9, protocol="jit")], load_claims())
    by_key = {section.key: section for section in sections}
    adm = by_key["fid/adm/256"]
    assert len(adm.groups) == 1
    assert {group.words for group in adm.claims} >= {
        "adm-tf (50k; VIRTUAL ref)",
        "adm-tf (50k; VIRTUAL ref); random labels",
    }
    assert {c.claim.resolution for group in adm.claims for c in group.rows} == {256}
    assert len(by_key["fid/jit/256"].groups) == 1
    (row,) = adm.groups[0].rows
    verdicts = {one.claimed: one.verdict for one in row.beside}
    assert verdicts[1.93] == "inside"
    assert verdicts[2.29] == "no verdict"  # of 160 epochs: not the released file
    (other,) = by_key["fid/jit/256"].groups[0].rows
    assert {one.verdict for one in other.beside} == {"no verdict"}


@pytest.mark.parametrize("best", [("adm-float32", ()), ("mine", ("adm",)), ("adm", ())])
def test_a_section_is_chosen_by_all_names_of_all_rows(tmp_path: Path, best: tuple) -> None:
    """A FID is the same by `adm` and by `adm-float32`, whatever the best row calls it."""
    name, also_of = best
    first = scale(1.9, 2.0).model_copy(update={"protocol_name": name, "also_of": also_of}).sealed()
    sections = board(tmp_path, [first, scale(2.5, 3.0)], load_claims())
    (section,) = [section for section in sections if section.groups]
    assert section.key == "fid/adm/256"
    assert section.claims
    assert [len(group.rows) for group in section.groups] == [2]


def test_a_section_names_what_its_numbers_are(tmp_path: Path) -> None:
    """A distance of DINOv2's features is not called FID, though its metric in the registry is."""
    dino = make_record(80.0, protocol="edm2-dinov2", model="pixnerd-xl-512")
    titles = [section.title for section in board(tmp_path, [dino, make_record(1.94)])]
    assert titles[0].startswith("FID-50K, ADM's evaluator, 256")
    assert titles[1].startswith("dinov2-FID-50K, ")
    mine = make_record(1.9, reference="mine", reference_sha256="34" * 32)
    (section,) = board(tmp_path, [mine])
    assert section.title == "FID-50K, adm against mine"


def test_claims_alone_make_a_board_and_show_their_ties() -> None:
    sections = build_board([], load_claims())
    claimed = sum(
        claim.figure(m) is not None
        for claim in load_claims()
        for m in ("fid", "sfid", "inception_score", "precision", "recall")
    )
    rows = [row for section in sections for group in section.claims for row in group.rows]
    assert len(rows) == claimed
    deco = next(r for r in rows if r.value == 1.62 and r.claim.model.startswith("DeCo"))
    assert any(name.startswith("PixelDiT-XL (320ep") for name in deco.near)
    assert any(name.startswith("FrequencyBooster") for name in deco.near)


def test_nothing_to_show_is_refused() -> None:
    with pytest.raises(UsageError, match="nothing to show"):
        build_board([], [])


def unsealed(record: Record, **changes) -> Record:
    """As someone leaves it who edits a value and takes the hash away."""
    return record.model_copy(update={"record_sha256": None, **changes})


def test_a_record_without_its_hash_has_no_place(tmp_path: Path) -> None:
    """Nor a verdict, nor does it move the places of others, nor stand for one that has its hash."""
    edited = unsealed(scale(2.5, 3.0), value=1.94)
    (section,) = [s for s in board(tmp_path, [scale(2.0, 2.0), edited], load_claims()) if s.groups]
    (group,) = section.groups
    assert places(group) == [(2.0, (1, 1)), (1.94, None)]
    known, last = group.rows
    assert (known.dagger, last.dagger) == ((), ("record_sha256",))
    assert {one.verdict for one in last.beside} == {"no verdict"}
    assert all("no record_sha256" in one.obstacles[-1] for one in last.beside)
    assert not any("record_sha256" in text for one in known.beside for text in one.obstacles)
    late = unsealed(scale(2.0, 2.0), created_at="2026-02-01T00:00:00+00:00")
    ((group,),) = (s.groups for s in board(tmp_path, [late, scale(2.0, 2.0)]))
    assert places(group) == [(2.0, (1, 1))]


def test_records_without_hashes_alone_are_a_group_without_places(groups) -> None:
    (group,) = groups([unsealed(scale(2.0, 2.0)), unsealed(scale(3.0, 3.0))])
    assert places(group) == [(2.0, None), (3.0, None)]


def test_an_edited_record_is_refused(tmp_path: Path) -> None:
    path = write_records(tmp_path / "a.json", make_record(1.94))
    path.write_text(path.read_text().replace("1.94", "1.54"))
    with pytest.raises(CorruptionError, match="was edited"):
        open_entry("A", path)

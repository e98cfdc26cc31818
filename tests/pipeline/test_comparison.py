"""Differences of real digits runs, their intervals by hand, and methods with training seeds."""

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.linalg
from numpy.typing import NDArray
from run_maker import BOTH, SPEC, make_run, make_shard, measure, new_run, resolved
from safetensors.numpy import load_file, save_file
from scipy import stats

from evalsuite.artifacts.records import Record
from evalsuite.artifacts.references import open_reference
from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.config import data_root
from evalsuite.errors import CorruptionError, DataError, UsageError
from evalsuite.pipeline.comparability import declare
from evalsuite.pipeline.comparison import (
    Comparison,
    Difference,
    Row,
    Sharing,
    compare,
    compare_records,
    sharing,
)
from evalsuite.pipeline.comparison_inputs import (
    Entry,
    Meeting,
    declare_in,
    letters,
    of_count,
    of_metrics,
    of_protocols,
    open_entry,
)
from evalsuite.pipeline.comparison_words import RETRAINING, amounts, closing, payload, statement
from evalsuite.pipeline.evaluation import payload as evaluation_payload
from evalsuite.pipeline.evaluation import score_run
from evalsuite.pipeline.grouping import (
    group_by,
    group_statement,
    payload_of_groups,
    value_of,
    welch,
)
from evalsuite.pipeline.stages import OutputFormat
from evalsuite.pipeline.weights import WeightsRequest
from evalsuite.pipeline.worker import ShardWorker, WorkerJob

N, FEW = 140, 40
METRICS = ("fid", "precision", "inception_score", "sfid")


class Runs(NamedTuple):
    """Directories of runs of 140 samples (`low` scored for 40 too) and of 40; not to be changed."""

    low: Path
    high: Path
    replicate: Path
    shifted: Path
    random: Path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    root = tmp_path_factory.mktemp("compared")
    plans: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
        "low": ({}, (N, FEW)),
        "high": ({"sampling": {"guidance_scale": 3.0}}, (N,)),
        "replicate": ({"first_seed": 10**7}, (N,)),
        "shifted": ({"first_seed": 30}, (FEW,)),
        "random": ({"labels": "random:0"}, (FEW,)),
    }
    for name, (changes, counts) in plans.items():
        run = make_run(root / name, max(counts), max(counts), **changes)
        for count in counts:
            score_run(run, measure(metrics=METRICS), count)
    return Runs(*(root / name for name in Runs._fields))


def opened(*paths: Path) -> list[Entry]:
    return [open_entry(name, path) for name, path in zip(letters(len(paths)), paths, strict=True)]


def compared(
    *paths: Path, allowed: Sequence[str] = (), metrics: Sequence[str] = METRICS
) -> Comparison:
    entries = of_metrics(opened(*paths), metrics)
    return compare(entries, entries[0], allowed)


def row_of(found: Comparison, metric: str) -> Row:
    (row,) = (row for row in found.rows if row.metric == metric)
    return row


def json_file(path: Path, records: Sequence[Record]) -> Path:
    """What `evaluate --json` writes."""
    path.write_text(json.dumps(evaluation_payload(records, {})))
    return path


def influence_by_hand(run: RunDirectory) -> NDArray[np.float64]:
    """2 (m - mr)·d + d' (I - T) d about its mean, T = Sr^½ (Sr^½ S Sr^½)^-½ Sr^½."""
    pool_ND = run.read_features(SPEC.extractor_id, N).pool_ND.astype(np.float64)
    reference = open_reference("digits-16-train").pool
    assert reference is not None
    root_DD = scipy.linalg.sqrtm(reference.cov_DD).real
    cov_DD = np.cov(pool_ND, rowvar=False)
    transport_DD = root_DD @ np.linalg.inv(scipy.linalg.sqrtm(root_DD @ cov_DD @ root_DD)) @ root_DD
    d_ND = pool_ND - pool_ND.mean(0)
    curve_DD = np.eye(len(cov_DD)) - transport_DD.real
    quadratic_N = np.einsum("nd,de,ne->n", d_ND, curve_DD, d_ND)
    shift_D = pool_ND.mean(0) - reference.mean_D
    return 2 * d_ND @ shift_D + quadratic_N - quadratic_N.mean()


def test_paired_error_is_the_one_by_hand(runs: Runs) -> None:
    row = row_of(compared(runs.low, runs.high), "fid")
    values = [influence_by_hand(RunDirectory.open(path)) for path in (runs.low, runs.high)]
    gaps_N = values[1] - values[0]
    by_class = [gaps_N[label::10] for label in range(10)]  # modulo
    within = sum(float(((v - v.mean()) ** 2).sum()) for v in by_class)
    expected = math.sqrt(within / (N - 10) / N)
    assert row.sharing is Sharing.PAIRED
    assert row.difference is not None
    assert row.difference.paired
    assert row.difference.standard_error == pytest.approx(expected, rel=1e-6)
    a, b = row.meeting.a, row.meeting.b
    assert row.difference.value == b.value - a.value
    assert row.difference.half_width == 1.96 * row.difference.standard_error
    assert row.difference.standard_error < math.hypot(a.standard_error, b.standard_error)


def test_a_small_set_has_the_word_of_the_replicates_beside_its_interval(runs: Runs) -> None:
    found = compared(runs.low, runs.high)
    assert N <= 500
    of_pairs = "95 % intervals of paired differences of fid held the truth 90 to 100 %"
    assert of_pairs in statement(row_of(found, "fid"))
    unpaired = statement(row_of(found, "precision"))
    assert unpaired.count("of A and B: 95 % intervals of precision held the truth") == 1


def test_precision_is_unpaired_and_says_so(runs: Runs) -> None:
    row = row_of(compared(runs.low, runs.high), "precision")
    assert row.difference is not None
    assert not row.difference.paired
    expected = math.hypot(row.meeting.a.standard_error, row.meeting.b.standard_error)
    assert row.difference.standard_error == expected
    assert "unpaired although noise and labels are shared, usually too wide" in statement(row)


def test_no_interval_of_a_frechet_distance_below_two_samples_a_dimension(runs: Runs) -> None:
    row = row_of(compared(runs.low, runs.high), "sfid")
    assert row.difference is not None
    assert row.difference.standard_error is None
    assert row.difference.holds_zero is None
    text = statement(row)
    assert "no interval: of A and B no standard error: it needs at least 2 samples" in text
    assert "use more samples (kid is no substitute: it compares pooled features)" in text
    assert "±" not in text


def test_runs_without_common_seeds_are_independent(runs: Runs) -> None:
    row = row_of(compared(runs.low, runs.replicate), "fid")
    assert row.sharing is Sharing.DISJOINT
    assert row.difference is not None
    expected = math.hypot(row.meeting.a.standard_error, row.meeting.b.standard_error)
    assert row.difference.standard_error == expected
    assert "unpaired: the two share no seeds" in statement(row)
    assert "replicates of one plan" in statement(row)
    assert "one expectation" in statement(row)


def test_overlapping_seeds_are_refused(runs: Runs) -> None:
    row = row_of(compared(runs.low, runs.shifted), "fid")
    assert row.difference is None
    (relation,) = row.comparability.refusals
    assert (relation.field, relation.a, relation.b) == ("seeds", "0..39", "30..69")
    assert "10 seeds are in both" in statement(row)
    allowed = row_of(compared(runs.low, runs.shifted, allowed=["seeds"]), "fid")
    assert allowed.difference is not None
    assert allowed.difference.standard_error is None
    assert not allowed.comparability.ranked


def test_the_largest_common_count_is_chosen_and_said(runs: Runs) -> None:
    found = compared(runs.low, runs.shifted, runs.high, allowed=["seeds"])
    few, *_ = (row for row in found.rows if row.b.name == "B")
    assert few.meeting.a.protocol.num_samples == few.meeting.b.protocol.num_samples == FEW
    assert few.meeting.chosen is not None
    assert f"N = {FEW}" in few.meeting.chosen
    assert str(N) in few.meeting.chosen
    whole = row_of(compared(runs.low, runs.high), "fid")
    assert whole.meeting.a.protocol.num_samples == N


def test_counts_that_differ_are_refused(runs: Runs) -> None:
    found = compared(runs.high, runs.random)
    row = row_of(found, "fid")
    assert {r.field for r in row.comparability.refusals} == {"num_samples", "label_rule"}
    with pytest.raises(UsageError, match=f"no records of {N} samples; it has {FEW}"):
        of_count(opened(runs.high, runs.random), N)


def test_random_labels_are_refused_and_allowed_with_the_caveat(runs: Runs) -> None:
    refused = row_of(compared(runs.low, runs.random), "fid")
    assert refused.difference is None
    assert "label_rule differs (modulo, random:0): random against balanced" in statement(refused)
    found = compared(runs.low, runs.random, allowed=["label_rule"])
    row = row_of(found, "inception_score")
    assert row.sharing is Sharing.NOISE
    assert row.difference is not None
    assert not row.difference.paired
    assert "interval does not hold" not in statement(row)
    content = payload(found)["rows"][0]
    assert content["caveats"]
    assert not content["ranked"]
    assert content["interval_holds_zero"] is None


def test_what_is_allowed_in_vain_is_an_error(runs: Runs) -> None:
    with pytest.raises(UsageError, match="no two records are known to differ"):
        compared(runs.low, runs.high, allowed=["codec"])


def test_files_give_unpaired_intervals_and_point_to_the_runs(runs: Runs, tmp_path: Path) -> None:
    low, high = opened(runs.low, runs.high)
    files = [json_file(tmp_path / f"{e.name}.json", e.records) for e in (low, high)]
    row = row_of(compared(*files, metrics=["fid"]), "fid")
    assert row.sharing is Sharing.PAIRED
    assert row.difference is not None
    assert not row.difference.paired
    assert "give the run directory" in statement(row)


def test_unknown_sampling_has_a_dagger_until_it_is_declared(runs: Runs, tmp_path: Path) -> None:
    (low,) = opened(runs.low)
    outside = [
        record.model_copy(
            update={"protocol": protocol, "protocol_id": protocol.protocol_id, "samples": {}}
        )
        for record in low.of_metric("fid")
        for protocol in [
            record.protocol.model_copy(update={"label_rule": None, "uint8_rule": None})
        ]
    ]
    path = json_file(tmp_path / "outside.json", outside)
    found = compared(runs.low, path, metrics=["fid"])
    row = row_of(found, "fid")
    assert [r.field for r in row.comparability.unknown] == ["label_rule", "uint8_rule"]
    assert payload(found)["rows"][0]["dagger"] == ["label_rule", "uint8_rule"]
    assert "interval holds 0" not in statement(row)
    entries = of_metrics(opened(runs.low, path), ["fid"])
    stated = declare_in(entries, [("B", "label_rule", "balanced"), (None, "uint8_rule", "half_up")])
    again = compare(stated, stated[0])
    assert row_of(again, "fid").comparability.ranked
    assert "interval holds 0" in statement(row_of(again, "fid"))
    assert payload(again)["rows"][0]["b"]["declared"]["label_rule"] == "balanced"
    with pytest.raises(UsageError, match="known to be modulo"):
        declare_in(entries, [("A", "label_rule", "modulo")])
    with pytest.raises(UsageError, match="known of every input"):
        declare_in(entries, [(None, "codec", "lossless")])
    with pytest.raises(UsageError, match="no input is 'C'"):
        declare_in(entries, [("C", "label_rule", "modulo")])


def test_two_ways_of_measuring_meet_each_with_its_own(runs: Runs) -> None:
    entries = opened(runs.low, runs.high)
    doubled = []
    for entry in entries:
        (record,) = (r for r in entry.of_metric("precision") if r.protocol.num_samples == N)
        other = record.protocol.model_copy(update={"details": {"k": 5, "arithmetic": "float32"}})
        doubled.append(
            entry.with_records(
                [
                    record,
                    record.model_copy(update={"protocol": other, "protocol_id": other.protocol_id}),
                ]
            )
        )
    rows = compare(doubled, doubled[0]).rows
    assert [row.meeting.a.protocol.details["k"] for row in rows] == [3, 5]
    assert all(not row.comparability.relations for row in rows)
    only = [doubled[0].with_records(doubled[0].records[1:]), entries[1]]
    (row,) = compare([only[0], only[1].with_records(doubled[1].records[:1])], only[0]).rows
    assert [r.field for r in row.comparability.refusals] == ["details.k"]
    named = of_protocols(doubled, ["digits"])
    assert [r.protocol.details["k"] for e in named for r in e.records] == [3, 5, 3, 5]
    unnamed = doubled[0].with_records(
        r.model_copy(update={"protocol_name": None}) for r in doubled[0].records
    )
    (fits,) = of_protocols([unnamed], ["digits"])
    assert [r.protocol.details["k"] for r in fits.records] == [3]
    with pytest.raises(UsageError, match="no records of protocol adm; it has digits"):
        of_protocols(doubled, ["adm"])


def test_a_metric_that_one_input_lacks_is_said(runs: Runs) -> None:
    low, high = opened(runs.low, runs.high)
    found = compare([low, high.with_records(high.of_metric("fid"))], low)
    assert [row.metric for row in found.rows] == ["fid"]
    assert "B has no precision" in found.missing
    left, right = (e.with_records(e.of_metric(m)) for e, m in ((low, "sfid"), (high, "fid")))
    with pytest.raises(DataError, match="no metric in common"):
        compare([left, right], left)


def test_an_undefined_value_has_no_difference(runs: Runs) -> None:
    low, high = opened(runs.low, runs.high)
    (x,) = (r for r in low.of_metric("inception_score") if r.protocol.num_samples == N)
    (y,) = high.of_metric("inception_score")
    row = compare_records(low, high, Meeting(x, y.model_copy(update={"value": None}), None))
    assert row.difference is None
    assert "undefined for B" in statement(row)


@pytest.mark.parametrize("content", [b"", b"no array", np.zeros(N - 1), np.full(N, np.nan)])
def test_influence_that_does_not_fit_is_refused(runs: Runs, content: Any, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(runs.low, tmp_path / "copy"))
    (entry,) = opened(copy)
    (record,) = (r for r in entry.of_metric("fid") if r.protocol.num_samples == N)
    where = copy / record.influence_path
    if isinstance(content, bytes):
        where.write_bytes(content)
    else:
        np.save(where, content)
    with pytest.raises(CorruptionError, match="writes it again"):
        compared(copy, runs.high, metrics=["fid"])


def test_words_name_what_differs_and_never_rank(runs: Runs) -> None:
    found = compared(runs.low, runs.high)
    texts = [*map(statement, found.rows), *closing(found.rows)]
    assert "settings of one set of weights differ by" in texts[0]
    assert f"at N = {N} (95 %; sampling only; bias at finite N is not removed" in texts[0]
    assert texts[-1] == RETRAINING
    assert "1.3 %" in RETRAINING
    assert "not evidence for a method" in RETRAINING
    assert not any(word in " ".join(texts) for word in ("better", "worse", "wins", "significant"))


@pytest.mark.parametrize(
    ("value", "width", "expected"),
    [
        (1.864, 0.1898, ("+1.8640", "0.1898")),
        (-12.5, 3.25, ("-12.5000", "3.2500")),
        (0.000123, 0.0000456, ("+0.000123", "0.000046")),
        (0.5, None, ("+0.5000", None)),
        (0.0, 0.0, ("+0.0000", "0.0000")),
    ],
)
def test_small_differences_keep_two_digits_of_their_interval(
    value: float, width: float | None, expected: tuple[str, str | None]
) -> None:
    difference = Difference(value, None if width is None else width / 1.96, False, ())
    assert amounts(difference) == expected


def test_what_samples_share() -> None:
    plan = resolved().plan

    def shared(num_b: int = N, **changes: Any) -> Sharing:
        return sharing(plan, plan.model_copy(update=changes), N, num_b)

    assert shared() is Sharing.PAIRED
    assert shared(weights_sha256="0" * 64) is Sharing.PAIRED
    assert shared(batch_size=7) is Sharing.PAIRED
    assert shared(num_b=N + 1) is Sharing.NOISE
    assert shared(size=(32, 32)) is Sharing.NOISE
    assert shared(classes=(1, 2)) is Sharing.NOISE
    assert shared(first_seed=plan.first_seed + N) is Sharing.DISJOINT
    assert shared(first_seed=plan.first_seed + N - 1) is Sharing.OVERLAP
    assert sharing(plan, None, N, N) is Sharing.UNKNOWN


def test_welch_is_scipys() -> None:
    a, b = [2.0, 2.1, 1.9, 2.3], [2.4, 2.6, 2.2]
    found = welch(a, b)
    theirs = stats.ttest_ind(b, a, equal_var=False).confidence_interval(0.95)
    assert found.difference == pytest.approx(sum(b) / 3 - sum(a) / 4)
    assert found.half_width == pytest.approx((theirs.high - theirs.low) / 2, rel=1e-9)
    assert found.degrees_of_freedom == pytest.approx(stats.ttest_ind(a, b, equal_var=False).df)
    assert welch([1.0], [2.0, 3.0]).half_width is None
    assert welch([1.0, 1.0], [2.0, 2.0]).half_width is None


def trained(root: Path, seed: int, **changes: Any) -> Path:
    """20 samples of weights as another training seed would leave them."""
    source = data_root() / "configs/models/pixnerd-digits.safetensors"
    rng = np.random.default_rng(seed)
    weights = {
        name: value + rng.normal(0, 1e-2, value.shape).astype(value.dtype) * np.abs(value).mean()
        for name, value in load_file(source).items()
    }
    file = root / f"weights-{seed}.safetensors"
    save_file(weights, file)
    found = resolved(weights=WeightsRequest(str(file)), **changes)
    where = root / f"{seed}-{found.plan.plan_id[:8]}"
    run = new_run(where, weights=WeightsRequest(str(file)), **changes)
    output = OutputFormat("none", "parquet")
    worker = ShardWorker(WorkerJob(str(where), found.materials, (SPEC,), output, "cpu"))
    worker.load()
    make_shard(worker, 0, 20, BOTH)
    score_run(run, measure(metrics=["fid"]), 20)
    run.write_json(
        "attempts/a.json", {"tags": {"method": f"g{changes['sampling']['guidance_scale']}"}}
    )
    return where


@pytest.fixture(scope="module")
def methods(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two guidance scales with two training seeds each, and one of them with other noise."""
    root = tmp_path_factory.mktemp("methods")
    low, high = ({"sampling": {"guidance_scale": scale}} for scale in (1.5, 3.0))
    made = [trained(root, seed, **plan) for plan in (low, high) for seed in (1, 2)]
    return [*made, trained(root, 1, first_seed=10**7, **low)]


@pytest.mark.parametrize("key", ["method", "sampling.guidance_scale"])
def test_groups_are_compared_over_training_seeds(methods: list[Path], key: str) -> None:
    entries = opened(*methods)
    values = [entry.records[0].value for entry in entries]
    found = group_by(entries, key, None)
    assert [len(group) for group in found.members.values()] == [3, 2]
    (row,) = found.rows
    low, high = [(values[0] + values[4]) / 2, values[1]], values[2:4]
    assert row.groups[0].seed_values == pytest.approx(low)
    assert row.groups[1].seed_values == pytest.approx(high)
    assert row.groups[1].spread == pytest.approx(np.std(high, ddof=1))
    theirs = stats.ttest_ind(high, low, equal_var=False).confidence_interval(0.95)
    (interval,) = row.intervals
    assert interval.half_width == pytest.approx((theirs.high - theirs.low) / 2, rel=1e-6)
    text = group_statement(row, 1)
    assert "2 and 2 training seeds" in text
    assert "degrees of freedom" in text
    assert "share noise" in found.notes[0]
    content = payload_of_groups(found)
    assert content["rows"][0]["against_first"][0]["difference"] == interval.difference
    against = group_by(entries, key, entries[2])
    assert against.rows[0].intervals[0].difference == pytest.approx(-interval.difference)


def test_a_single_training_seed_is_no_evidence(methods: list[Path]) -> None:
    (row,) = group_by(opened(methods[0], methods[4], methods[2]), "method", None).rows
    assert row.groups[0].spread is None
    assert row.groups[0].num_runs == 2
    assert "not evidence for a method" in group_statement(row, 1)


def test_groups_that_mean_nothing_are_refused(methods: list[Path], tmp_path: Path) -> None:
    entries = opened(*methods)
    with pytest.raises(UsageError, match="all inputs are in one group"):
        group_by(entries, "model", None)
    with pytest.raises(
        UsageError, match=r"both in 'modulo' but differ in sampling\.guidance_scale"
    ):
        group_by([entries[0], entries[2], _labelled(entries[3])], "labels.rule", None)
    with pytest.raises(DataError, match="did you mean 'method'"):
        value_of(entries[0], "methode")


def _labelled(entry: Entry) -> Entry:
    """The same with a tag of the name of a plan's field, which goes before it."""
    return Entry(
        "Z", entry.where, entry.records, entry.run, entry.plan, entry.model, {"labels.rule": "x"}
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "holds no records"),
        ('{"records": []}', "holds no records"),
        ('{"records": [{}]}', "cannot be read"),
        ('{"records": [{"schema_version": 99}]}', "newer than this evalsuite reads"),
    ],
)
def test_a_file_of_something_else_is_refused(content: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(DataError, match=words):
        open_entry("A", path)


def test_other_things_than_runs_and_files_are_refused(runs: Runs, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        open_entry("A", tmp_path / "none")
    with pytest.raises(DataError, match="is no run"):
        open_entry("A", tmp_path)
    new_run(tmp_path / "empty")
    with pytest.raises(DataError, match="holds no results"):
        open_entry("A", tmp_path / "empty")
    (low,) = opened(runs.low)
    edited = low.records[0].model_copy(update={"protocol_id": "0" * 16})
    with pytest.raises(CorruptionError, match="does not hash"):
        open_entry("A", json_file(tmp_path / "edited.json", [edited]))
    several = tmp_path / "several.json"
    (high,) = opened(runs.high)
    assert low.plan is not None
    parts = [evaluation_payload(one.records, {}) for one in (low, high)]
    several.write_text(json.dumps(evaluation_payload(low.records, {"runs": parts})))
    with pytest.raises(UsageError, match=f"of several sets of samples, .*{low.plan.plan_id[:12]}"):
        open_entry("A", several)


def test_declarations_of_evaluate_are_kept_by_compare(runs: Runs, tmp_path: Path) -> None:
    (low,) = opened(runs.low)
    record = low.of_metric("fid")[0]
    protocol = record.protocol.model_copy(update={"codec": None})
    unknown = record.model_copy(update={"protocol": protocol, "protocol_id": protocol.protocol_id})
    path = json_file(tmp_path / "x.json", declare([unknown], {"codec": "lossless"}))
    (entry,) = opened(path)
    assert entry.records[0].declared == {"codec": "lossless"}


def test_letters_go_on_after_z() -> None:
    assert letters(28)[24:] == ["Y", "Z", "AA", "AB"]


def test_the_very_same_images_have_no_interval(runs: Runs) -> None:
    """By their plan, or by the digest of their pixels, whatever computed the features."""
    found = compare(
        [open_entry("A", runs.low), open_entry("B", runs.low)], open_entry("A", runs.low)
    )
    for row in found.rows:
        assert row.difference is not None
        assert row.difference.value == 0
        assert row.difference.standard_error is None
        assert "very same images" in row.difference.why[0]
    (record,) = (r for r in open_entry("A", runs.high).records if r.metric == "fid")

    def file_of(name: str, digest: str | None) -> Entry:
        samples = {"path": name} | ({"pixels_digest": digest} if digest else {})
        outside = record.model_copy(update={"samples": samples})
        return Entry(name, name, (outside,), None, None, None, {})

    for digest, same in (("ab", True), ("cd", False), (None, False)):
        (row,) = compare([file_of("A", "ab"), file_of("B", digest)], file_of("A", "ab")).rows
        assert row.difference is not None
        assert (row.difference.standard_error is None) is same

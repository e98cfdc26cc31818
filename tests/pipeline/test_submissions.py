"""Submitted records: sound ones pass, and each kind of edit is named."""

import hashlib
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from board_kit import make_record, outside_record, plan_of, write_records
from store_server import speaking_to

from evalsuite.artifacts.records import Protocol, record_digest
from evalsuite.errors import DataError
from evalsuite.pipeline.comparison_inputs import entries_for_board
from evalsuite.pipeline.record_files import files_of, inputs_of
from evalsuite.pipeline.submissions import check_submissions


def content() -> dict[str, Any]:
    return make_record(1.94).model_dump(mode="json")


def faults_of(tmp_path: Path, changed: Any, name: str = "record.json") -> tuple[str, ...]:
    (tmp_path / name).write_text(json.dumps(changed), encoding="utf-8")
    (one,) = check_submissions([tmp_path / name])
    return one.faults


def resealed(changed: dict[str, Any]) -> dict[str, Any]:
    """With the hash computed again, as someone who edits with care would."""
    return changed | {"record_sha256": record_digest(changed)}


def test_sound_records_pass(tmp_path: Path) -> None:
    assert faults_of(tmp_path, content()) == ()
    many = write_records(tmp_path / "many.json", make_record(1.94), outside_record(2.0))
    assert [one.faults for one in check_submissions([many])] == [(), ()]
    assert len(check_submissions([tmp_path])) == 3


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def apply(changed: dict[str, Any]) -> None:
        *above, last = path.split(".")
        for key in above:
            changed = changed[key]
        changed[last] = value

    return apply


@pytest.mark.parametrize(
    "path", ["value", "standard_error", "notes", "created_at", "cost.gpu_hours", "samples.model"]
)
def test_any_edit_is_found(tmp_path: Path, path: str) -> None:
    changed = content()
    texts = {"notes": ["x"], "created_at": "2026-01-01", "samples.model": "mine"}
    new = texts.get(path, 0.5)
    change(path, new)(changed)
    assert faults_of(tmp_path, changed) == ("it was edited: it does not hash to its record_sha256",)


def test_a_record_without_its_hash_is_refused(tmp_path: Path) -> None:
    changed = content()
    del changed["record_sha256"]
    assert "has no record_sha256" in faults_of(tmp_path, changed)[0]


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("protocol.label_rule", "random:1", "its protocol hashes to"),
        ("protocol.reference_sha256", "abc", "protocol.reference_sha256 is no SHA-256"),
        ("samples.plan.sampling.guidance_scale", 2.0, "its plan hashes to"),
        ("samples.plan.sampling.num_steps", 50, "its nfe is"),
        ("samples.plan.weights_sha256", "random:1", "its plan"),
        ("samples.plan", None, "names a plan_id but holds no plan"),
        ("protocol.uint8_rule", "half_even", "its uint8 rule is half_even, the plan's half_up"),
        ("protocol.num_samples", 10_000, "is called FID-50K and counts 10000 samples"),
        ("protocol.metric", "sfid", "it is of fid, its protocol of sfid"),
        ("protocol.extractor", "inception-2015-12-05-01234567", "is not the registered"),
        ("protocol.extractor_sha256", "34" * 32, "is not the registered"),
        ("value", -1.0, "fid cannot be -1"),
        ("standard_error", -0.1, "its standard error is -0.1"),
        ("better", "higher", "lower is better, not higher"),
        ("protocol_name", "digits", "has not the rules of the digits that it is called"),
        ("also_of", ["edm2-dinov2"], "has not the rules of the edm2-dinov2 that it is called"),
        ("reference", "digits-16-train", "the protocol those of inception-2015-12-05-"),
        ("reference", "adm-imagenet-512", "are 256x256, reference adm-imagenet-512 is of 512x512"),
        (
            "samples.model",
            "pixnerd-l-256",
            "called pixnerd-l-256, and the plan has another network",
        ),
        ("cost.gpu_hours", -5.0, "its cost.gpu_hours is -5"),
        ("created_at", "<b>x", "its created_at '<b>x' is no time in ISO 8601"),
    ],
)
def test_edits_whose_hash_was_computed_again_contradict_themselves(
    tmp_path: Path, path: str, value: Any, said: str
) -> None:
    changed = content()
    change(path, value)(changed)
    found = "; ".join(faults_of(tmp_path, resealed(changed)))
    assert said in found
    assert "was edited" not in found


def test_a_label_rule_with_all_hashes_renewed_still_contradicts_the_plan(tmp_path: Path) -> None:
    changed = content()
    changed["protocol"]["label_rule"] = "random:1"
    changed["protocol_id"] = Protocol(**changed["protocol"]).protocol_id
    (fault,) = faults_of(tmp_path, resealed(changed))
    assert fault == "its labels are random:1 in the protocol and modulo in the plan"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "it is no record"),
        ([], "it is no record"),
        ({"records": []}, "holds no records"),
        (content() | {"schema_version": 99}, "its schema version is 99"),
        (content() | {"colour": "red"}, "unknown key 'colour'"),
        (content() | {"value": "low"}, "value: "),
    ],
)
def test_what_is_no_record_is_said(tmp_path: Path, changed: Any, said: str) -> None:
    (fault,) = faults_of(tmp_path, changed)
    assert said in fault


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("cost.gpu_hours", math.inf, "Infinity is no number in JSON"),
        ("cost.gpu_hours", math.nan, "NaN is no number in JSON"),
        ("cost.gpu_hours", 10**400, "a number has more than 300 digits"),
        ("cost.gpu_hours", [1], "cost.gpu_hours"),
        ("cost.gpu_hours", "a lot", "cost.gpu_hours"),
        ("samples.model", ["x"], "samples.model must be text"),
        ("samples.path", {"x": 1}, "samples.path must be text"),
    ],
)
def test_values_of_other_kinds_are_a_fault_and_no_board(
    tmp_path: Path, path: str, value: Any, said: str
) -> None:
    """Also with the hash computed again."""
    changed = content()
    change(path, value)(changed)
    fields = {key: one for key, one in changed.items() if key != "record_sha256"}
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()
    (fault,) = faults_of(tmp_path, changed | {"record_sha256": digest})
    assert said in fault
    with pytest.raises(DataError, match=re.escape(said)):
        entries_for_board(tmp_path)


def test_what_is_not_json_is_said(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b"\xff{")
    (one,) = check_submissions([tmp_path / "x.json"])
    (fault,) = one.faults
    assert "x.json is not JSON" in fault


def test_a_results_file_must_have_its_own_name(tmp_path: Path) -> None:
    record = make_record(1.94)
    good, bad = record.path.rpartition("/")[2], f"fid-{'0' * 16}.json"
    assert faults_of(tmp_path, content(), good) == ()
    assert faults_of(tmp_path, content(), bad) == (f"its file should be called {good}",)


def test_images_of_another_reference_under_a_known_name_are_found(tmp_path: Path) -> None:
    changed = content()
    changed["reference"] = "digits-16-train"
    changed["metric"] = changed["protocol"]["metric"] = "precision"
    assert "its reference is called digits-16-train and has other images" in faults_of(
        tmp_path, resealed(changed)
    )


def test_two_values_of_one_plan_are_a_conflict(tmp_path: Path) -> None:
    write_records(tmp_path / "a.json", make_record(1.94))
    write_records(tmp_path / "b.json", make_record(1.70))
    other = make_record(1.70, plan=plan_of("pixnerd-xl-256", guidance_scale=2.0))
    write_records(tmp_path / "c.json", other)
    first, second, third = check_submissions([tmp_path])
    assert first.faults == third.faults == ()
    (fault,) = second.faults
    assert "a.json, record 0 gives the same plan other numbers by the same protocol" in fault
    assert "value (1.94, 1.7), here the second" in fault


def test_two_errors_of_one_plan_are_a_conflict_and_two_costs_are_none(tmp_path: Path) -> None:
    write_records(tmp_path / "a.json", make_record(1.94, 0.02))
    write_records(tmp_path / "b.json", make_record(1.94, 0.02, gpu_hours=9.0))
    write_records(tmp_path / "c.json", make_record(1.94, 0.01))
    first, second, third = check_submissions([tmp_path])
    assert first.faults == second.faults == ()
    assert "standard_error (0.02, 0.01), here the second" in third.faults[0]
    write_records(tmp_path / "a.json", make_record(1.94, None))  # agrees with all
    assert [bool(one.faults) for one in check_submissions([tmp_path])] == [False, False, True]


def test_an_error_of_zero_is_one_of_shares_alone(tmp_path: Path) -> None:
    (fault,) = faults_of(tmp_path, make_record(1.94, 0.0).model_dump(mode="json"))
    assert "its standard error is 0" in fault
    for metric in ("recall", "inception_score"):  # none is recalled; all samples are alike
        record = make_record(float(metric != "recall"), 0.0, metric=metric, reference=None)
        assert faults_of(tmp_path, record.model_dump(mode="json")) == ()


def test_what_boards_sweeps_and_watches_keep_is_no_record(tmp_path: Path) -> None:
    """Records that lie beside it are found, and so are those behind links, each once."""
    kept = {
        "board/board.json": {"schema_version": 1, "files": ["index.html"]},
        "sweep/sweep.json": {"sweep_id": "ab" * 32, "protocol": {}},
        "sweep/rungs/00000100.json": {"num_samples": 100},
        "sweep/result.json": {"winner": "a"},
        "watch/watch.json": {"pattern": "/a/*.pt"},
        "watch/checkpoints/0000001000.json": {"step": 1000},
    }
    for name, written in kept.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(written))
    mine = [
        write_records(tmp_path / folder / "mine.json", make_record(1.94))
        for folder in ("board", "sweep", "watch")
    ]
    assert inputs_of(tmp_path) == mine
    elsewhere = tmp_path / "given"
    elsewhere.mkdir()
    (elsewhere / "linked").symlink_to(tmp_path / "board")
    (elsewhere / "again").symlink_to(elsewhere)
    assert inputs_of(elsewhere) == [elsewhere / "linked" / "mine.json"]
    (elsewhere / "lost.json").symlink_to(tmp_path / "nowhere")
    assert "cannot read" in str([one.faults for one in check_submissions([elsewhere])])


def test_sweeps_and_watches_stand_for_their_runs(tmp_path: Path) -> None:
    """Each run once, whoever names it; the samples that a winner was scored on again are one."""
    for name in ("a", "b", "c", "unscored"):
        (tmp_path / "runs" / name / "results").mkdir(parents=True)
        (tmp_path / "runs" / name / "manifest.json").write_text("{}")
    results = []
    for name, scale in (("a", 1.0), ("b", 2.0), ("c", 3.0)):
        record = make_record(scale, plan=plan_of("pixnerd-xl-256", guidance_scale=scale))
        results.append(tmp_path / "runs" / name / record.path)
        results[-1].write_text(record.model_dump_json())
    named = [{"run": f"../../runs/{name}"} for name in ("a", "unscored", "gone")]
    kept = {
        "sweeps/x/sweep.json": {"sweep_id": "ab", "configurations": named},
        "sweeps/x/result.json": {"fresh": {"run": "../../runs/b"}},
        "sweeps/new/sweep.json": {"sweep_id": "cd", "configurations": named[1:]},
        "watches/y/watch.json": {"pattern": "/a/*.pt"},
        "watches/y/checkpoints/0000000100.json": {"step": 100, "run": "../../runs/c"},
    }
    for name, written in kept.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(written))
    runs = [tmp_path / "runs" / name for name in "abc"]
    assert inputs_of(tmp_path / "sweeps" / "x") == inputs_of(tmp_path / "sweeps") == runs[:2]
    assert inputs_of(tmp_path / "watches") == runs[2:]
    assert inputs_of(tmp_path / "sweeps" / "new") == []
    shutil.copytree(tmp_path / "runs" / "unscored", tmp_path / "begun" / "unscored")
    assert inputs_of(tmp_path / "begun") == []
    assert inputs_of(tmp_path) == runs
    parts = [tmp_path / name for name in ("sweeps", "runs", "watches")]
    checked = check_submissions(parts)
    assert [(one.where, one.faults) for one in checked] == [(str(path), ()) for path in results]


def test_what_a_sweep_names_and_nobody_can_reach_is_told_and_left_out(tmp_path: Path) -> None:
    """The records beside it are read and checked all the same."""
    mine = tmp_path / "mine.json"
    mine.write_text(make_record(2.0).model_dump_json())
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    named = [{"run": "s3://b/runs/x"}, {"run": "nothing://b/x"}]
    (sweep / "sweep.json").write_text(json.dumps({"sweep_id": "ab", "configurations": named}))
    (sweep / "result.json").write_text("{")
    told: list[str] = []
    with speaking_to("http://127.0.0.1:9"):  # where nobody listens
        assert files_of(tmp_path, told.append) == [mine]
    told.sort()
    assert [line.partition(": ")[0] for line in told[:2]] == ["nothing://b/x", "s3://b/runs/x"]
    assert "result.json names, which is not JSON" in told[2]


def test_a_record_called_as_our_files_are_is_a_record(tmp_path: Path) -> None:
    for name in ("board.json", "sweep.json", "watch.json"):
        write_records(tmp_path / name, make_record(1.94))
    assert len(check_submissions([tmp_path])) == 3


def test_two_values_of_two_kinds_of_gpu_are_none(tmp_path: Path) -> None:
    for name, value in (("a", 1.94), ("b", 1.95)):
        samples = make_record(value).samples | {"numerics_ids": [name * 8]}
        write_records(tmp_path / f"{name}.json", make_record(value, samples=samples))
    assert [one.faults for one in check_submissions([tmp_path])] == [(), ()]


def test_a_record_with_a_fault_says_nothing_against_others(tmp_path: Path) -> None:
    """Whichever of the two is read first."""
    for names in (("a", "b"), ("b", "a")):
        write_records(tmp_path / f"{names[0]}.json", make_record(1.94))
        edited = write_records(tmp_path / f"{names[1]}.json", make_record(1.94))
        edited.write_text(edited.read_text().replace("1.94", "1.54"))
        found = {
            Path(one.where.partition(",")[0]).stem: one for one in check_submissions([tmp_path])
        }
        assert found[names[0]].faults == ()
        (fault,) = found[names[1]].faults
        assert "it was edited" in fault


def test_paths_that_hold_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no JSON file"):
        check_submissions([tmp_path])
    with pytest.raises(DataError, match="there is no record yet"):
        check_submissions([])
    with pytest.raises(DataError, match="does not exist"):
        check_submissions([tmp_path / "none.json"])

"""`leaderboard` and `verify-claim` as a person types them; no workers are started."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from board_kit import make_record, outside_record, plan_of, write_records
from harness import NUM_SAMPLES, FinishedRun, Outcome

Call = Callable[..., Outcome]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_board_of_claims_alone(call: Call, tmp_path: Path) -> None:
    outcome = call("leaderboard", "build", "--metrics", "fid", "--output", "board")
    assert outcome.code == 0, outcome.stderr
    rows = read(tmp_path / "board" / "leaderboard.csv")
    assert len(rows) == 155
    assert {row["kind"] for row in rows} == {"claim"}
    assert outcome.stdout.split() == [
        f"board/{name}"
        for name in ("index.html", "leaderboard.csv", "leaderboard.parquet", "reproductions.csv")
    ]


def test_a_board_of_a_run_and_of_records_by_other_protocols(
    call: Call, digits_run: FinishedRun, tmp_path: Path
) -> None:
    """Mixed protocols stand in groups of their own, and a line says so."""
    write_records(tmp_path / "a.json", make_record(1.94), make_record(1.9, protocol="jit"))
    options = ("--metrics", "fid", "--published", "none", "--format", "latex")
    outcome = call("leaderboard", "build", digits_run.path, "a.json", *options, "--output", "b")
    assert outcome.code == 0, outcome.stderr
    assert "3 results in 3 groups by protocol, 0 claimed figures" in outcome.stderr
    assert "groups are not ranked against each other" in outcome.stderr
    rows = read(tmp_path / "b" / "leaderboard.csv")
    assert [row["best_place"] for row in rows] == ["1", "1", "1"]
    digits = next(row for row in rows if row["model"] == "pixnerd-digits")
    assert float(digits["value"]) == digits_run.json["metrics"]["fid"]["value"]
    assert digits["record_sha256"]
    assert "\\toprule" in (tmp_path / "b" / "leaderboard.tex").read_text()


def test_figures_are_a_file_for_each_group(call: Call, tmp_path: Path) -> None:
    """Also of groups whose titles begin alike for longer than a file name is."""
    long = {"reference": "x" * 90}
    other = plan_of("pixnerd-xl-256", 10**9, guidance_scale=2.0)
    write_records(
        tmp_path / "a.json",
        make_record(1.94, **long),
        make_record(1.7, plan=other, reference_sha256="34" * 32, **long),
    )
    options = ("--metrics", "fid", "--published", "none", "--figures", "svg")
    outcome = call("leaderboard", "build", "a.json", *options, "--output", "board")
    assert outcome.code == 0, outcome.stderr
    assert len(list((tmp_path / "board").glob("fid-*.svg"))) == 2


def test_runs_without_results_are_left_out(call: Call, run_copy: Path, tmp_path: Path) -> None:
    """As a glob over runs gives them while one is in progress; alone they are refused."""
    shutil.rmtree(run_copy / "results")
    write_records(tmp_path / "a.json", make_record(1.94))
    build = ("leaderboard", "build", run_copy)
    outcome = call(*build, "a.json", "--output", "board")
    assert outcome.code == 0, outcome.stderr
    assert f"left out: {run_copy} has no numbers yet" in outcome.stderr
    assert "1 results in 1 groups" in outcome.stderr
    checked = call("leaderboard", "check", run_copy, "a.json")
    assert (checked.code, checked.stdout.count("ok     ")) == (0, 1)
    assert f"left out: {run_copy} has no records yet" in checked.stderr
    assert call("leaderboard", "check", run_copy).code == 3
    alone = call(*build, "--output", "other")
    assert alone.code == 3
    assert "no input has numbers yet" in alone.complaints[-1]
    assert not (tmp_path / "other").exists()


def test_a_sweep_beside_its_runs_adds_nothing(
    call: Call, digits_run: FinishedRun, tmp_path: Path
) -> None:
    """By itself it stands for them; one of which no run is scored is left out."""
    for name, run in (("done", str(digits_run.path)), ("new", "../../gone")):
        (tmp_path / "sweeps" / name / "rungs").mkdir(parents=True)
        content = {"sweep_id": name, "configurations": [{"run": run}]}
        (tmp_path / "sweeps" / name / "sweep.json").write_text(json.dumps(content))
        (tmp_path / "sweeps" / name / "rungs" / "00000100.json").write_text("{}")
    for runs in ((digits_run.path,), ()):
        given = (*runs, "sweeps/done", "sweeps/new")
        built = call("leaderboard", "build", *given, "--published", "none", "--output", "board")
        checked = call("leaderboard", "check", *given)
        assert (built.code, checked.code) == (0, 0), built.stderr + checked.stderr
        assert "5 results in" in built.stderr
        assert checked.stdout.count("ok     ") == 5
        for outcome in (built, checked):
            assert "left out: sweeps/new has no" in outcome.stderr


def test_a_folder_of_something_else_is_left_alone(call: Call, tmp_path: Path) -> None:
    """Of a board, files that are no longer asked for go away; foreign ones stay and are refused."""
    write_records(tmp_path / "a.json", make_record(1.94))
    build = ("leaderboard", "build", "a.json", "--published", "none", "--output")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("mine")
    outcome = call(*build, "site")
    assert outcome.code == 2
    assert "site holds other files and no leaderboard" in outcome.complaints[-1]
    assert (tmp_path / "site" / "index.html").read_text() == "mine"
    assert call(*build, "board", "--format", "latex", "--figures", "svg").code == 0
    before = {path.name for path in (tmp_path / "board").iterdir()}
    (tmp_path / "board" / "README.md").write_text("mine")
    assert call(*build, "board").code == 0
    gone = before - {path.name for path in (tmp_path / "board").iterdir()}
    assert {Path(name).suffix for name in gone} == {".tex", ".svg"}
    assert (tmp_path / "board" / "README.md").read_text() == "mine"


def test_what_cannot_make_a_board_is_one_line(
    call: Call, digits_run: FinishedRun, tmp_path: Path
) -> None:
    edited = write_records(tmp_path / "edited.json", make_record(1.94))
    edited.write_text(edited.read_text().replace("1.94", "1.49"))
    cases = [
        (("--published", "none"), 2, "nothing to show"),
        (("--published", "no.csv"), 2, "does not exist"),
        (("--metrics", "beauty"), 2, "neither a record nor a claim has one of them"),
        ((edited,), 3, "was edited"),
        ((tmp_path / "empty",), 3, "holds no JSON file"),
    ]
    (tmp_path / "empty").mkdir()
    for arguments, code, said in cases:
        outcome = call("leaderboard", "build", *arguments, "--output", "board")
        assert outcome.code == code, arguments
        assert said in outcome.complaints[-1]
        assert not (tmp_path / "board").exists()


def test_check_passes_a_run_and_names_each_fault(
    call: Call, digits_run: FinishedRun, tmp_path: Path
) -> None:
    outcome = call("leaderboard", "check", digits_run.path)
    assert outcome.code == 0, outcome.stderr
    assert outcome.stdout.count("ok     ") == 5
    bad = write_records(tmp_path / "bad.json", make_record(1.94), outside_record(2.0))
    bad.write_text(bad.read_text().replace("1.94", "1.49"))
    outcome = call("leaderboard", "check", "bad.json", digits_run.path, "--json", "out.json")
    assert outcome.code == 3
    assert "FAULT  bad.json, record 0: FID-50K: it was edited" in outcome.stdout
    assert outcome.complaints == [
        "evalsuite: 1 of 7 records have faults: score them again, do not edit"
    ]
    listed = json.loads((tmp_path / "out.json").read_text())["records"]
    assert sum(bool(one["faults"]) for one in listed) == 1
    assert call("leaderboard", "check").code == 2


def test_check_and_build_take_the_same_files(
    call: Call, digits_run: FinishedRun, tmp_path: Path
) -> None:
    """A record in a file of its own, a list, a folder of both and of runs; deep nesting in none."""
    records = tmp_path / "records"
    records.mkdir()
    alone = make_record(1.94).model_dump(mode="json")
    (records / "alone.json").write_text(json.dumps(alone))
    write_records(records / "list.json", make_record(1.9, protocol="jit"), outside_record(2.0))
    for given, count in ((("records",), 3), (("records/alone.json", digits_run.path), 6)):
        checked = call("leaderboard", "check", *given)
        assert checked.stdout.count("ok     ") == count, checked.stdout
        built = call("leaderboard", "build", *given, "--published", "none", "--output", "board")
        assert built.code == 0, built.stderr
        assert f"{count} results in" in built.stderr
    (records / "runs").mkdir()
    shutil.copytree(digits_run.path, records / "runs" / "one")
    assert call("leaderboard", "check", "records").stdout.count("ok     ") == 8
    built = call("leaderboard", "build", "records", "--published", "none", "--output", "board")
    assert "8 results in" in built.stderr
    inside = ("records", "--published", "none", "--output", "records/board")
    assert call("leaderboard", "build", *inside).code == 0
    assert call("leaderboard", "check", "records").stdout.count("ok     ") == 8
    assert "8 results in" in call("leaderboard", "build", *inside).stderr
    (records / "deep.json").write_text("[" * 200_000)
    for verb, options in (("check", ()), ("build", ("--output", "board"))):
        outcome = call("leaderboard", verb, "records", *options)
        assert outcome.code == 3
        assert "deep.json is not JSON" in outcome.stdout + outcome.stderr
        assert "Traceback" not in outcome.stderr


def test_the_record_that_json_writes_is_sealed(
    call: Call, digits_run: FinishedRun, tmp_path: Path
) -> None:
    (tmp_path / "out.json").write_text(json.dumps(digits_run.json))
    assert call("leaderboard", "check", "out.json").code == 0


def test_comparisons_as_tables(call: Call, tmp_path: Path) -> None:
    write_records(tmp_path / "a.json", make_record(1.94))
    other = plan_of("pixnerd-xl-256", 10**9, guidance_scale=2.0)
    write_records(tmp_path / "b.json", make_record(2.5, plan=other))
    outcome = call("compare", "a.json", "b.json", "--format", "markdown")
    assert outcome.code == 0, outcome.stderr
    assert "| FID-50K | unpaired | 1.9400 | 2.5000 | +0.5600 | 0.0277 |" in outcome.stdout
    assert "retraining typically moves FID" in outcome.stdout
    assert "record_sha256" not in outcome.stdout
    edited = make_record(1.54).model_copy(update={"record_sha256": None})
    write_records(tmp_path / "c.json", edited)
    outcome = call("compare", "a.json", "b.json", "c.json", "--json", "out.json")
    assert outcome.stdout.count("of C has no record_sha256, so an edit of it is not seen") == 1
    met = [
        row["b"]["record_sha256"] for row in json.loads((tmp_path / "out.json").read_text())["rows"]
    ]
    assert [one is None for one in met] == [False, True]
    grouped = call("compare", "a.json", "b.json", "--format", "csv", "--group-by", "model")
    assert grouped.code == 2


def test_an_evaluation_as_a_table(call: Call, run_copy: Path) -> None:
    outcome = call("evaluate", run_copy, "--metrics", "fid", "--format", "csv")
    assert outcome.code == 0, outcome.stderr
    heading, row = outcome.stdout.splitlines()
    assert heading.startswith("metric,protocol,reference,protocol id,value,± error")
    assert row.startswith(f"digits-FID-{NUM_SAMPLES},digits,digits-16-train,")


def preset(tmp_path: Path, fid: float | None, **changes: object) -> Path:
    """A person's own preset of the digits model, with a figure that its paper would give."""
    claim = {"source": "a paper", "setting": "as here", "protocol": "digits", "fid": fid}
    evaluation = {"num_samples": NUM_SAMPLES} | changes
    content = {"extends": "pixnerd-digits", "name": "mine", "evaluation": evaluation}
    content |= {"published": [claim] if fid is not None else [], "settings_are": "published"}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def verify(call: Call, run_copy: Path) -> Call:
    """`verify(preset, ...)` on a run that lacks nothing, so that no worker is started."""

    def run(path: Path, *options: object) -> Outcome:
        plan = ("--num-steps", 4, "--batch-size", 10, "--num-workers", 1)
        return call("verify-claim", "--model", path, *plan, "--output", run_copy, *options)

    return run


def test_a_claim_inside_its_band(verify: Call, digits_run: FinishedRun, tmp_path: Path) -> None:
    value = digits_run.json["metrics"]["fid"]["value"]
    outcome = verify(preset(tmp_path, round(value, 4)), "--json", "out.json")
    assert outcome.code == 0, outcome.stderr
    assert "is inside the band of the claim of" in outcome.stdout
    assert "which checkpoint the claim is of is not known" in outcome.stdout
    assert "not the published setting: num_steps: 4, the preset's 15" in outcome.stdout
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["verdict"] == "inside"
    assert content["claims"][0]["source"] == "a paper"
    assert content["metrics"]["fid"]["value"] == pytest.approx(value, rel=1e-9)


def test_a_claim_outside_and_one_that_must_not_be_compared(
    verify: Call, digits_run: FinishedRun, tmp_path: Path
) -> None:
    value = digits_run.json["metrics"]["fid"]["value"]
    outcome = verify(preset(tmp_path, round(value / 2, 4)))
    assert outcome.code == 3
    assert "is outside the band of the claim of" in outcome.complaints[-1]
    outcome = verify(preset(tmp_path, value, num_samples=50_000), "--num-samples", NUM_SAMPLES)
    assert outcome.code == 3
    assert f"no verdict on the claim of {value:g}" in outcome.complaints[-1]
    assert f"N is {NUM_SAMPLES}, the claim's 50,000" in outcome.complaints[-1]


def test_claims_that_cannot_be_verified_are_refused_at_once(
    verify: Call, call: Call, tmp_path: Path
) -> None:
    outcome = verify(preset(tmp_path, None))
    assert outcome.code == 2
    assert "mine has no published FID" in outcome.complaints[-1]
    outcome = call("verify-claim", "--model", "pixnerd-digits", "--dry-run")
    assert outcome.code == 2
    outcome = verify(preset(tmp_path, 1.0), "--metrics", "precision")
    assert outcome.code == 2
    assert "add it" in outcome.complaints[-1]
    outcome = verify(preset(tmp_path, 1.0), "--dry-run")
    assert outcome.code == 0, outcome.stderr
    assert "claim 1: " in outcome.stdout

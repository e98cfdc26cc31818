"""A real sweep by the command line: warm workers, no sample twice, kills, other sweeps and runs."""

import csv
import io
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from harness import (
    HostedCluster,
    Outcome,
    bytes_of,
    call_in,
    finish,
    pixel_hashes,
    receipts,
    start,
    wait_for,
)

from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.config import ExtractorSpec, load_spec
from evalsuite.errors import CorruptionError, DataError
from evalsuite.pipeline.coverage import Demand
from evalsuite.pipeline.generation import BatchSampler
from evalsuite.pipeline.numerics import resolve_device
from evalsuite.pipeline.plan import PlanOptions, resolve_plan
from evalsuite.pipeline.stages import OutputFormat
from evalsuite.runtime.session import SessionRequest
from evalsuite.sweep.conducting import is_complete, with_count
from evalsuite.sweep.directory import SweepDirectory, reference_to

FIXED = ("--model", "pixnerd-digits", "--num-steps", 3, "--batch-size", 50, "--num-workers", 1)
SWEEP = ("sweep", *FIXED, "--guidance-scale", "1.5,5", "--rungs", "100,200")
GOOD, BAD = "guidance_scale=1.5", "guidance_scale=5"


class Finished(NamedTuple):
    """A sweep that was not disturbed."""

    folder: Path
    outcome: Outcome
    json: dict

    @property
    def place(self) -> Path:
        """The sweep directory."""
        (found,) = (self.folder / "sweeps").iterdir()
        return found

    def run(self, name: str) -> Path:
        """The run of a configuration."""
        directory = SweepDirectory.open(self.place)
        place = directory.place(directory.manifest.entry(name).run)
        assert isinstance(place, Path)
        return place


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("sweep")
    outcome = call_in(folder, *SWEEP, "--json", "out.json")
    assert outcome.code == 0, outcome.stderr
    return Finished(folder, outcome, json.loads((folder / "out.json").read_text()))


def test_rungs_drop_what_the_leader_excludes(finished: Finished) -> None:
    first, second = finished.json["rungs"]
    assert [row["name"] for row in first["rows"]] == [GOOD, BAD]
    assert first["extrapolated"]  # 100 samples of 64 features
    assert first["may_exclude"]
    assert [row["goes_on"] for row in first["rows"]] == [True, False]
    assert first["rows"][1]["difference"] > first["rows"][1]["half_width"] > 0
    assert first["rows"][1]["paired"]
    assert "inception_score" in first["rows"][0]["others"]
    assert [row["name"] for row in second["rows"]] == [GOOD]
    result = finished.json["result"]
    assert (result["winner"], result["samples"], result["samples_of_grid"]) == (GOOD, 300, 400)
    assert len(receipts(finished.run(BAD))) * 50 == 100
    assert f"winner  {GOOD}: digits-FID " in finished.outcome.stdout
    page = (finished.place / "report" / "index.html").read_text()
    assert f"report  {finished.place.relative_to(finished.folder)}" in finished.outcome.stdout
    assert BAD in page
    assert "  dropped" in finished.outcome.stdout


def test_the_winner_is_scored_on_seeds_that_did_not_choose_it(finished: Finished) -> None:
    fresh, result = finished.json["result"]["fresh"], finished.json["result"]
    run = RunDirectory.open(finished.place / fresh["run"])
    assert run.plan.first_seed == 10**7
    assert run.plan.model_copy(update={"first_seed": 0}).plan_id == result["plan_id"]
    assert fresh["lost"] == pytest.approx(fresh["ranked_by"] - result["ranked_by"])
    assert fresh["lost_error"] > 0
    assert not set(pixel_hashes(run.root).values()) & set(pixel_hashes(finished.run(GOOD)).values())


@pytest.mark.slow  # by `make faults`; tests/sweep/test_conducting.py shows it without workers
def test_a_setting_that_diverges_does_not_end_the_sweep(
    call: Callable[..., Outcome], cluster: HostedCluster
) -> None:
    """Its worker raises it, and the next configuration gets another one."""
    outcome = call(
        *("sweep", *FIXED, "--set", "noise_scale=1e38,1", "--rungs", "50", "--no-fresh"),
        *("--address", cluster.address),
    )
    assert outcome.code == 0, outcome.stderr
    assert "noise_scale=1e+38: samples 0..49: the sampler gave NaN or inf" in outcome.stderr
    assert "undefined  not ranked  dropped: NaN or infinite values" in outcome.stdout
    assert "winner  noise_scale=1: " in outcome.stdout


def test_networks_are_loaded_once(finished: Finished) -> None:
    """Two configurations on one rung, one on the next, and fresh seeds: four jobs of one worker."""
    assert "networks loaded 1 times, kept 3 times" in finished.outcome.stderr


def test_a_warm_worker_makes_the_pixels_of_a_fresh_one(finished: Finished) -> None:
    """The second configuration came to a worker that had made the first."""
    for scale, name in ((1.5, GOOD), (5.0, BAD)):
        sampling = {"guidance_scale": scale, "num_steps": 3}
        resolved = resolve_plan(PlanOptions("pixnerd-digits", sampling=sampling, batch_size=50))
        sampler = BatchSampler(resolved.plan, resolved.materials, resolve_device("cpu"))
        hashes = pixel_hashes(finished.run(name))
        assert [hashes[i] for i in range(50, 100)] == sampler.pixel_hashes(1)


def test_once_more_makes_and_changes_nothing(
    finished: Finished, call: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished.folder)
    before = bytes_of(finished.folder)
    result = finished.place / "result.json"
    rung = finished.place / "rungs" / "00000100.json"
    result.unlink()
    rung.unlink()
    outcome = call(*SWEEP)
    assert outcome.code == 0, outcome.stderr
    assert "nothing was missing" in outcome.stderr
    assert bytes_of(finished.folder) == before
    assert outcome.stdout == finished.outcome.stdout


def test_a_limit_that_was_damaged_or_edited_is_computed_again(
    finished: Finished, call: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is cut short; the other says that the leader is worse, under its old seal."""
    monkeypatch.chdir(finished.folder)
    before = bytes_of(finished.folder)
    first = {name: next(finished.run(name).glob("results/fid-*-limit.npz")) for name in (GOOD, BAD)}
    with np.load(first[GOOD]) as file:
        edited = {name: file[name] for name in file.files}
    np.savez(first[GOOD], **(edited | {"value": edited["value"] + 1000.0}))
    content = bytearray(first[BAD].read_bytes())
    content[len(content) // 2] ^= 255  # zipfile finds it by its checksum
    first[BAD].write_bytes(bytes(content))
    outcome = call(*SWEEP)
    assert outcome.code == 0, outcome.stderr
    assert bytes_of(finished.folder) == before


def test_a_damaged_shard_is_not_complete(finished: Finished, tmp_path: Path) -> None:
    """So that its run is repaired, as `run` does, before it is scored."""
    root = tmp_path / "run"
    shutil.copytree(finished.run(GOOD), root)
    sampling = {"guidance_scale": 1.5, "num_steps": 3}
    extractor = load_spec(ExtractorSpec, "digits-convnet")
    request = SessionRequest(
        resolved=resolve_plan(PlanOptions("pixnerd-digits", sampling=sampling, batch_size=50)),
        demand=Demand(100, None, "grid", (extractor,)),
        root=root,
        output=OutputFormat("grid", "parquet"),
        shard_size=None,
        device="cpu",
        address=None,
        num_workers=1,
        gpus_per_worker=1.0,
        allow_mixed_numerics=False,
        command="sweep",
        asked={},
        tags={},
    )
    assert is_complete(request)
    receipt = sorted(root.glob("receipts/images/*.json"))[0]
    content = receipt.read_bytes()
    receipt.write_bytes(content[:20])
    assert not is_complete(request)
    receipt.write_bytes(content)
    features = sorted(root.glob("**/*.safetensors"))
    content = features[0].read_bytes()
    features[0].write_bytes(content[:-8])
    assert not is_complete(request)
    features[0].write_bytes(content)
    assert is_complete(request)
    assert not is_complete(with_count(request, 250))


def test_status_shows_rungs_and_survivors(finished: Finished, call: Callable[..., Outcome]) -> None:
    shown = call("status", finished.place)
    assert shown.code == 0, shown.stderr
    lines = [line.strip() for line in shown.stdout.splitlines()]
    assert any(line.startswith("rung 100: ranked by the distance extrapolated") for line in lines)
    assert any(line.startswith(BAD) and line.endswith("dropped") for line in lines)
    (winner,) = (line for line in lines if line.startswith(f"winner  {GOOD}: digits-FID "))
    assert Path(winner.rpartition("; run ")[2]).resolve() == finished.run(GOOD).resolve()
    last = finished.json["rungs"][1]["rows"][0]
    assert f"{last['value']:.4f} ± {last['standard_error']:.4f} (extrapolated" in shown.stdout
    assert "± is the standard error, [ ] the interval of the difference" in lines[2]


def plotted(call: Callable[..., Outcome], place: Path, *options: str) -> tuple[list[dict], str]:
    outcome = call("plot", place, "--x", "guidance_scale", "--format", "csv", *options)
    assert outcome.code == 0, outcome.stderr
    return list(csv.DictReader(io.StringIO(outcome.stdout))), outcome.stderr


def test_plot_draws_what_a_sweep_ranks_by(
    finished: Finished, call: Callable[..., Outcome], tmp_path: Path
) -> None:
    """One curve for each rung, with the numbers and the bands of its table."""
    rows, said = plotted(call, finished.place, "--output", "curve.svg")
    first, second = finished.json["rungs"]
    names = {"1.5": GOOD, "5": BAD}
    for table, count in ((first, 2), (second, 1)):
        assert table["extrapolated"]
        label = f"N = {table['num_samples']}, extrapolated to infinite N"
        drawn = {names[row["guidance_scale"]]: row for row in rows if row["curve"] == label}
        assert len(drawn) == count
        for row in table["rows"]:
            one, width = drawn[row["name"]], row["half_width"]
            assert float(one["ranked_by"]) == row["ranked_by"] != row["value"]
            if width is None:  # the leader's
                assert (one["low"], one["high"]) == ("", "")
                assert one["note"].startswith("leads its rung")
                continue
            assert float(one["low"]) == pytest.approx(row["ranked_by"] - width)
            assert float(one["high"]) == pytest.approx(row["ranked_by"] + width)
            assert one["note"].startswith("low and high are the interval of the difference")
            assert (one["standard_error"], one["extrapolated"]) == ("", "True")
    assert "biased" not in said
    figure = (tmp_path / "curve.svg").read_text()
    assert "digits-FID, extrapolated to infinite N" in figure
    assert "from the leader, by which the sweep drops" in figure


def test_the_plain_metric_of_a_sweep_says_that_it_is_biased(
    finished: Finished, call: Callable[..., Outcome]
) -> None:
    rows, said = plotted(call, finished.place, "--y", "fid")
    first, second = finished.json["rungs"]
    values = {row["name"]: row["value"] for row in first["rows"]}
    assert [(row["curve"], row["guidance_scale"], float(row["fid"])) for row in rows] == [
        ("N = 100", "1.5", values[GOOD]),
        ("N = 100", "5", values[BAD]),
        ("N = 200", "1.5", second["rows"][0]["value"]),
    ]
    assert "plain digits-FID of 100 and 200 samples is biased by an amount that differs" in said
    assert "--y ranked_by draws that" in said
    runs = call("plot", finished.run(GOOD), "--x", "guidance_scale", "--format", "csv")
    assert "biased" not in runs.stderr  # of the run alone: nobody asks it to rank
    refused = call(
        *("plot", finished.run(GOOD), "--x", "guidance_scale", "--format", "csv"),
        *("--y", "ranked_by"),
    )
    assert refused.code == 2
    assert "ranked_by is of sweeps" in refused.complaints[-1]


def test_run_finds_what_a_sweep_has_made(
    finished: Finished, call: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished.folder)
    outcome = call("run", *FIXED, "--guidance-scale", 1.5, "--num-samples", 200, "--dry-run")
    facts = dict(line.split(maxsplit=1) for line in outcome.stdout.splitlines())
    assert facts["images_missing"] == "0"
    assert (finished.folder / facts["output"]).resolve() == finished.run(GOOD).resolve()


def decided(place: Path) -> dict[str, bytes]:
    """Every file of a sweep but its page, which tells hours too."""
    return {
        path: content for path, content in bytes_of(place).items() if not path.startswith("report/")
    }


def test_a_killed_sweep_goes_on_to_the_same_result(
    finished: Finished, call: Callable[..., Outcome], tmp_path: Path
) -> None:
    """Also where a receipt of a configuration that was complete cannot be read any more."""
    process = start(*SWEEP, cwd=tmp_path)
    wait_for(lambda: len(list(tmp_path.glob("runs/*/receipts/images/*.json"))) >= 3)
    os.killpg(process.pid, signal.SIGKILL)
    assert finish(process).code == -signal.SIGKILL
    (place,) = (tmp_path / "sweeps").iterdir()
    assert not (place / "result.json").exists()
    shown = call("status", place)
    assert f"{GOOD}: 100 of 100 samples" in shown.stdout
    complete = tmp_path / "runs" / finished.run(GOOD).name
    sorted(complete.glob("receipts/images/*.json"))[0].write_bytes(b"{")
    outcome = call(*SWEEP)
    assert outcome.code == 0, outcome.stderr
    assert decided(place) == decided(finished.place)
    for name in (GOOD, BAD):
        run = tmp_path / "runs" / finished.run(name).name
        assert pixel_hashes(run) == pixel_hashes(finished.run(name))
    assert outcome.stdout == finished.outcome.stdout


def test_an_edited_sweep_is_refused(finished: Finished, tmp_path: Path) -> None:
    text = (finished.place / "sweep.json").read_text()
    (tmp_path / "sweep.json").write_text(text.replace('"halving"', '"grid"'))
    with pytest.raises(CorruptionError, match="it was edited"):
        SweepDirectory.open(tmp_path)


def test_a_sweep_of_another_version_is_not_damaged(tmp_path: Path) -> None:
    for content in ({"schema_version": 1, "sweep_id": "x"}, {"schema_version": 3, "news": 1}):
        (tmp_path / "sweep.json").write_text(json.dumps(content))
        with pytest.raises(DataError, match=r"another version.*another --output; its runs") as told:
            SweepDirectory.open(tmp_path)
        assert not isinstance(told.value, CorruptionError)


def test_what_comes_with_a_solver_is_said_once(
    call: Callable[..., Outcome], tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text(
        "{extends: pixnerd-digits, name: mine, title: Mine, description: My own,"
        " with_solver: {heun: {guidance_interval: [0.0, 1.0]}}}"
    )
    axes = ("--solver", "adams,heun", "--num-steps", "3,4", "--rungs", "100", "--dry-run")
    outcome = call("sweep", "--model", tmp_path / "mine.yaml", *axes)
    assert outcome.code == 0, outcome.stderr
    assert outcome.stderr.count("solver heun comes with the guidance interval 0 1 in mine") == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "a sweep needs an axis"),
        (("--set", "guidance_scales=1,2"), "did you mean 'guidance_scale'?"),
        (("--guidance-scale", "4:1:1"), "is reversed"),
        (("--num-steps", "3,x"), "'x' is no whole number"),
        (("--guidance-scale", "1,snan"), "'snan' is no finite number"),
        (
            ("--num-steps", "3,4", "--rungs", "100,200", "--num-samples", "50"),
            "the first rung, 100",
        ),
        (
            ("--num-steps", "3,4", "--rungs", "100", "--budget", "150"),
            "smaller than the first rung",
        ),
        (("--num-steps", "3,4", "--metric", "fidd"), "did you mean 'fid'?"),
        (("--num-steps", "3,4", "--fresh-replicate", "0"), "shares samples with the sweep"),
        (("--num-steps", "3,4", "--first-seed", "7"), "needs a --fresh-replicate, or --no-fresh"),
        (("--ema", "auto,averaged"), "are the same plan"),
        (("--num-steps", "3,4", "--metric", "kid", "--metrics", "fid"), "is not among --metrics"),
        (("--num-steps", "3,4", "--spec", "none"), "unknown sweep 'none'"),
    ],
)
def test_bad_input(
    options: tuple[str, ...], said: str, call: Callable[..., Outcome], tmp_path: Path
) -> None:
    outcome = call("sweep", "--model", "pixnerd-digits", *options)
    assert outcome.code == 2
    assert outcome.stdout == ""
    (line,) = outcome.complaints
    assert said in line
    assert not list(tmp_path.iterdir())


def test_another_sweep_is_not_mixed_in(
    finished: Finished, call: Callable[..., Outcome], tmp_path: Path
) -> None:
    outcome = call(
        *("sweep", *FIXED, "--guidance-scale", "1.5,5", "--rungs", "100"),
        *("--output", finished.place, "--runs", tmp_path / "runs"),
    )
    assert outcome.code == 2
    assert "holds another sweep (it differs in rungs" in outcome.complaints[-1]
    outcome = call(*SWEEP, "--output", finished.place, "--runs", tmp_path / "elsewhere")
    assert outcome.code == 2
    assert f"refers to runs such as {finished.run(GOOD)}" in outcome.complaints[-1]
    assert str(tmp_path / "elsewhere") in outcome.complaints[-1]


def test_the_same_runs_behind_a_link_are_the_same(finished: Finished, tmp_path: Path) -> None:
    manifest = SweepDirectory.open(finished.place).manifest
    (tmp_path / "linked").symlink_to(finished.folder / "runs")
    linked = [
        entry.model_copy(update={"run": reference_to(tmp_path / "linked" / name, finished.place)})
        for entry in manifest.configurations
        for name in [Path(entry.run).name]
    ]
    again = manifest.model_copy(update={"configurations": tuple(linked)})
    found = SweepDirectory.create_or_open(finished.place, again)
    assert found.manifest == manifest

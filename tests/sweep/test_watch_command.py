"""A real watch by the command line: each checkpoint once, bad ones named, restarts, signals."""

import csv
import io
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from harness import HostedCluster, Outcome, attempts, bytes_of, pixel_hashes, run_cli, wait_for
from PIL import Image
from watched_training import MODEL, settle, weights, write_checkpoint

from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.config import data_root
from evalsuite.pipeline.generation import BatchSampler
from evalsuite.pipeline.numerics import resolve_device
from evalsuite.pipeline.plan import PlanOptions, resolve_plan
from evalsuite.pipeline.weights import WeightsRequest
from evalsuite.sweep.watch_directory import WatchDirectory

FIXED = ("--model", MODEL, "--num-steps", 3, "--batch-size", 50, "--num-workers", 1)
WATCH = ("watch", "ckpts/step_*.pt", *FIXED, "--num-samples", 150, "--every", 100)
ONCE = (*WATCH, "--once", "--settle", 0)


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


class Finished(NamedTuple):
    """A watch that has seen two good checkpoints, and four that it cannot score."""

    folder: Path
    outcome: Outcome

    @property
    def place(self) -> Path:
        """The watch directory."""
        (found,) = (self.folder / "watches").iterdir()
        return found

    @property
    def table(self) -> list[dict[str, str]]:
        """Rows of its table."""
        return read_csv((self.place / "table.csv").read_text())

    def run(self, step: int) -> Path:
        """The run of a step."""
        directory = WatchDirectory.open(self.place)
        entry = next(one for one in directory.entries() if one.step == step)
        place = directory.place(entry.run)
        assert isinstance(place, Path)
        return place


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, cluster: HostedCluster) -> Finished:
    folder = tmp_path_factory.mktemp("watch")
    ckpts = folder / "ckpts"
    write_checkpoint(ckpts / "step_100.pt", 0.5)
    good = write_checkpoint(ckpts / "step_200.pt", 0.0)
    write_checkpoint(ckpts / "step_250.pt", 0.1)  # no multiple of --every
    damaged = ckpts / "step_300.pt"
    damaged.write_bytes(good.read_bytes()[:-1000])
    settle(damaged)
    torch.save({**weights(), "stranger": torch.zeros(2)}, ckpts / "step_400.pt")
    growing = ckpts / "step_500.pt"
    growing.write_bytes(good.read_bytes()[:5000])
    diverged = {key: value * float("nan") for key, value in weights().items()}
    torch.save(diverged, ckpts / "step_700.pt")
    more = ("--log", "tensorboard:boards", "--tag", "seed=1", "--address", cluster.address)
    outcome = run_cli(*ONCE, *more, cwd=folder)
    (ckpts / "step_700.pt").unlink()  # the others are refused without a worker
    return Finished(folder, outcome)


@pytest.fixture
def there(
    finished: Finished, call: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> Finished:
    """In its folder, where `call` then is too."""
    monkeypatch.chdir(finished.folder)
    return finished


pytestmark = pytest.mark.ray


def test_good_checkpoints_are_scored_and_bad_ones_are_one_line_each(finished: Finished) -> None:
    outcome = finished.outcome
    assert outcome.code == 3, outcome.stderr
    assert [row["step"] for row in finished.table] == ["100", "200"]
    noisy, good = (float(row["fid"]) for row in finished.table)
    assert noisy > good > 0
    assert all(float(row["fid_se"]) > 0 for row in finished.table)
    lines = outcome.stderr.splitlines()
    (cut,) = [line for line in lines[:-1] if "step_300.pt" in line]
    assert "cut short or damaged" in cut
    (strange,) = [line for line in lines[:-1] if "step_400.pt" in line]
    assert "unexpected stranger" in strange
    (diverged,) = [line for line in lines[:-1] if "holds NaN or infinite values" in line]
    assert "step_700.pt" in diverged
    named = "step_300.pt, step_400.pt, step_700.pt"
    assert f"3 checkpoints are not scored ({named})" in lines[-1]
    assert "not complete yet: step_500.pt: " in lines[-1]
    assert "step_250" not in outcome.stderr
    shown = outcome.stdout.splitlines()
    assert shown[0].startswith("step 100: digits-FID-150 ")
    assert shown[-1].startswith("curve ")
    assert (finished.place / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_runs_say_what_they_are_of(finished: Finished) -> None:
    (attempt,) = attempts(finished.run(100))
    assert attempt["tags"] == {"seed": "1", "train_step": "100"}
    assert attempt["asked"]["weights"] == [["ckpts/step_100.pt"]]
    assert attempt["command"] == "run"


def test_a_process_that_has_loaded_other_weights_makes_the_pixels_of_a_fresh_one(
    finished: Finished,
) -> None:
    """Both checkpoints came to one worker, which loaded the second in place of the first."""
    pids = {a["pid"] for step in (100, 200) for a in worker_of(finished.run(step))}
    assert len(pids) == 1
    options = PlanOptions(
        MODEL,
        WeightsRequest(str(finished.folder / "ckpts" / "step_200.pt")),
        sampling={"num_steps": 3},
        batch_size=50,
    )
    resolved = resolve_plan(options)
    sampler = BatchSampler(resolved.plan, resolved.materials, resolve_device("cpu"))
    hashes = pixel_hashes(finished.run(200))
    assert [hashes[i] for i in range(50)] == sampler.pixel_hashes(0)
    assert not set(hashes.values()) & set(pixel_hashes(finished.run(100)).values())


def worker_of(run: Path) -> list[dict]:
    return [head.worker for head in RunDirectory.open(run).committed("images")]


def test_tensorboard_has_the_training_s_steps(finished: Finished) -> None:
    """Read by tensorboardX's own protocol buffers; TensorFlow reads such files in test_loggers."""
    from tensorboardX.proto.event_pb2 import Event

    (file,) = (finished.folder / "boards").rglob("events*")
    content, at, found = file.read_bytes(), 0, {}
    while at < len(content):
        size = int.from_bytes(content[at : at + 8], "little")
        event = Event.FromString(content[at + 12 : at + 12 + size])
        at += 16 + size
        for value in event.summary.value:
            found.setdefault(value.tag.partition("/")[2], []).append(event.step)
    assert found["digits-FID-150"] == [100, 200]


def test_once_more_scores_and_changes_nothing(
    there: Finished, call: Callable[..., Outcome]
) -> None:
    before = bytes_of(there.folder)
    outcome = call(*ONCE, "--tag", "seed=1")
    assert outcome.code == 3
    assert outcome.stdout == there.outcome.stdout
    assert "150 samples" not in outcome.stderr
    assert bytes_of(there.folder) == before


def test_a_watch_that_was_killed_before_it_noted_a_checkpoint_scores_none_again(
    there: Finished, call: Callable[..., Outcome]
) -> None:
    """All that is known of a step beside its run goes; records and pixels stay as they were."""
    records = bytes_of(there.run(200) / "results")
    hashes, run = pixel_hashes(there.run(200)), there.run(200)
    entry = there.place / "checkpoints" / "0000000200.json"
    before = json.loads(entry.read_text())
    entry.unlink()
    (there.place / "table.csv").unlink()
    shown = call("plot", there.place, "--x", "train_step", "--format", "csv")
    assert [row["train_step"] for row in read_csv(shown.stdout)] == ["100"]
    assert call(*ONCE).code == 3
    after = json.loads(entry.read_text())
    assert {**after, "scored_at": ""} == {**before, "scored_at": ""}
    assert bytes_of(run / "results") == records
    assert pixel_hashes(run) == hashes
    assert [row["step"] for row in there.table] == ["100", "200"]


def test_a_checkpoint_that_was_replaced_is_not_mixed_in(
    there: Finished, call: Callable[..., Outcome]
) -> None:
    """A copy of a scored one is known; other weights under its step are refused by name."""
    first = there.folder / "ckpts" / "step_100.pt"
    content, times = first.read_bytes(), first.stat()
    try:
        settle(first, 7200)
        outcome = call(*ONCE)
        assert "step_100.pt" not in outcome.stderr
        write_checkpoint(first, 0.7)
        outcome = call(*ONCE)
        assert outcome.code == 3
        assert "step 100 is in the table already, of other weights" in outcome.stderr
    finally:
        first.write_bytes(content)
        os.utime(first, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_status_and_plot_read_a_watch(there: Finished, call: Callable[..., Outcome]) -> None:
    shown = call("status", there.place)
    assert shown.code == 0, shown.stderr
    assert shown.stdout.splitlines()[:2] == there.outcome.stdout.splitlines()[:2]
    runs = [there.run(step) for step in (100, 200)]
    by_watch = call("plot", there.place, "--x", "train_step", "--format", "csv")
    by_runs = call("plot", *runs, "--x", "train_step", "--format", "csv", "--group", "tag.seed")
    assert by_watch.code == by_runs.code == 0, by_runs.stderr
    first, second = (
        [(row["train_step"], row["fid"], row["standard_error"]) for row in read_csv(one.stdout)]
        for one in (by_watch, by_runs)
    )
    assert first == second
    assert [step for step, *_ in first] == ["100", "200"]


def test_until_ends_and_json_holds_everything(
    there: Finished, call: Callable[..., Outcome], tmp_path: Path
) -> None:
    outcome = call(*WATCH, "--until", 200, "--json", tmp_path / "out.json")
    assert outcome.code == 0, outcome.stderr  # step 300 was not asked for
    content = json.loads((tmp_path / "out.json").read_text())
    assert [one["step"] for one in content["checkpoints"]] == [100, 200]
    assert {r["metric"] for r in content["checkpoints"][0]["records"]} >= {"fid", "inception_score"}


@pytest.mark.parametrize(
    ("number", "code", "name"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")]
)
def test_signals_end_the_waiting(
    number: int,
    code: int,
    name: str,
    call: Callable[..., Outcome],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A real signal to this process, which waits for a first checkpoint."""
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)

    def send() -> None:
        wait_for(lambda: list(tmp_path.glob("watches/*/watch.json")))
        time.sleep(0.3)
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    outcome = call(*WATCH)
    sender.join()
    assert outcome.code == code
    assert outcome.stdout == ""
    assert outcome.complaints[-1] == (
        f"evalsuite: stopped by {name}: what was committed stays; run the same command again to go"
        " on"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ckpts/step_1.pt", "ckpts/step_2.pt"), "quote the pattern"),
        (("ckpts/last.pt",), "has no wildcard"),
        (("s3://bucket/step_*.pt",), "on a local or mounted disk"),
        (("ckpts/*.pt", "--once", "--until", "5"), "exclude each other"),
        (("ckpts/*.pt", "--every", "100", "--until", "250"), "no multiple of --every 100"),
        (("ckpts/*.pt", "--reference", "no-such"), "no-such"),
        (("ckpts/*.pt", "--output", "s3://bucket/watch"), "give --runs there too"),
        (("ckpts/*.pt", "--guidance-interval", "0.9", "0.1"), "guidance_interval"),
    ],
)
def test_what_can_be_refused_before_a_checkpoint_is(
    arguments: tuple[str, ...], said: str, call: Callable[..., Outcome], tmp_path: Path
) -> None:
    outcome = call("watch", *arguments, *FIXED)
    assert outcome.code in {2, 3}
    assert outcome.stdout == ""
    assert said in outcome.complaints[-1]
    assert not list(tmp_path.iterdir())


def test_another_file_under_the_name_of_the_reference_is_another_watch(
    call: Callable[..., Outcome], tmp_path: Path
) -> None:
    """Its numbers would stand in one column with those against the first."""
    with np.load(data_root() / "reference_stats" / "digits-16-train.npz") as archive:
        arrays = dict(archive)
    own, watches = tmp_path / "own.npz", []
    for shift in (1.0, 2.0, 1.0):
        np.savez(own, **{**arrays, "mu": arrays["mu"] + shift})
        outcome = call("watch", "ckpts/*.pt", *FIXED, "--reference", own, "--dry-run")
        assert outcome.code == 0, outcome.stderr
        watches.append(outcome.stdout.splitlines()[0])
    assert watches[0] == watches[2] != watches[1]


def test_a_fault_of_the_reference_is_no_checkpoint_s(
    call: Callable[..., Outcome], tmp_path: Path
) -> None:
    """A damaged picture is found before samples of the checkpoint are made."""
    write_checkpoint(tmp_path / "ckpts" / "step_100.pt", 0.0)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(4):
        noise = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(noise).save(pictures / f"{number}.png")
    last = pictures / "3.png"
    last.write_bytes(last.read_bytes()[:200])
    outcome = call(*ONCE, "--reference", pictures, "--metrics", "fid")
    assert outcome.code == 3
    assert "3.png" in outcome.complaints[-1]
    assert "not scored" not in outcome.stderr
    assert not (tmp_path / "runs").exists()


def test_dry_run_names_what_is_there(there: Finished, call: Callable[..., Outcome]) -> None:
    outcome = call(*WATCH, "--dry-run")
    assert outcome.code == 0, outcome.stderr
    shown = [line.strip() for line in outcome.stdout.splitlines()]
    assert "step_100.pt: step 100, scored" in shown
    assert "step_250.pt: step 250, not asked" in shown

"""Bad input of every kind: one clear line, the right exit code, nothing lost."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from harness import (
    NUM_SAMPLES,
    PLAN,
    REPOSITORY,
    HostedCluster,
    Outcome,
    attempts,
    bytes_of,
    pixel_hashes,
    receipts,
    small_disk,
    start,
)

USAGE, DATA, STORAGE, ENVIRONMENT = 2, 3, 5, 6
MODEL = ("--model", "pixnerd-digits")
Refuse = Callable[..., str]


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--model", "pixnerd-digit"], USAGE, "did you mean 'pixnerd-digits'?"),
        (["--model", "none.yaml"], USAGE, "model file 'none.yaml' does not exist"),
        ([*MODEL, "--num-samples", "-5"], USAGE, "-5 is not in the range x>=1"),
        ([*MODEL, "--num-samples", "0"], USAGE, "0 is not in the range"),
        ([*MODEL, "--num-samples", "many"], USAGE, "'many' is not a valid integer"),
        ([*MODEL, "--batch-size", "-1"], USAGE, "--batch-size"),
        ([*MODEL, "--shard-size", "0"], USAGE, "--shard-size"),
        ([*MODEL, "--num-workers", "0"], USAGE, "--num-workers"),
        ([*MODEL, "--num-steps", "0"], USAGE, "--num-steps"),
        ([*MODEL, "--guidance-scale", "-1"], USAGE, "--guidance-scale"),
        ([*MODEL, "--guidance-scale", "nan"], USAGE, "'nan' is not a finite number"),
        ([*MODEL, "--guidance-scale", "inf"], USAGE, "'inf' is not a finite number"),
        ([*MODEL, "--set", "guidance_scale=.nan"], USAGE, "guidance_scale"),
        ([*MODEL, "--price-per-gpu-hour", "nan"], USAGE, "'nan' is not a finite number"),
        ([*MODEL, "--price-per-gpu-hour", "inf"], USAGE, "'inf' is not a finite number"),
        ([*MODEL, "--gpus-per-worker", "nan"], USAGE, "'nan' is not a finite number"),
        ([*MODEL, "--gpus-per-worker", "1.5"], USAGE, "1.5 is not in the range 0<x<=1"),
        ([*MODEL, "--gpus-per-worker", "0"], USAGE, "is not in the range 0<x<=1"),
        ([*MODEL, "--guidance-interval", "0.7", "0.1"], USAGE, "0 <= LO < HI <= 1"),
        ([*MODEL, "--guidance-interval", "-1", "0.5"], USAGE, "0 <= LO < HI <= 1"),
        ([*MODEL, "--guidance-interval", "0.1", "nan"], USAGE, "'nan' is not a finite number"),
        ([*MODEL, "--timeshift", "0"], USAGE, "timeshift"),
        ([*MODEL, "--noise-scale", "-1"], USAGE, "noise_scale"),
        ([*MODEL, "--last-step", "2"], USAGE, "last_step"),
        ([*MODEL, "--solver", "heum"], USAGE, "solver"),
        ([*MODEL, "--solver", "euler", "--order", "2"], USAGE, "--order is for solver adams"),
        ([*MODEL, "--order", "5"], USAGE, "--order"),
        ([*MODEL, "--dtype", "float16"], USAGE, "--dtype"),
        ([*MODEL, "--replicate", "1", "--first-seed", "5"], USAGE, "exclude each other"),
        ([*MODEL, "--replicate", "-1"], USAGE, "--replicate"),
        ([*MODEL, "--first-seed", "-1"], USAGE, "--first-seed"),
        ([*MODEL, "--size", "18x16"], USAGE, "multiples of 4"),
        ([*MODEL, "--size", "big"], USAGE, "'big' is not a size such as 256x256"),
        ([*MODEL, "--size", "20x20"], USAGE, "digits-convnet takes images of"),
        ([*MODEL, "--classes", "3,10"], USAGE, "label 10 is out of range: the model has classes"),
        ([*MODEL, "--classes", "-1"], USAGE, "label -1 is out of range"),
        ([*MODEL, "--classes", "sevn"], USAGE, "did you mean 'seven'?"),
        ([*MODEL, "--classes", "3,3"], USAGE, "twice"),
        ([*MODEL, "--labels", "modul"], USAGE, "did you mean 'modulo'?"),
        ([*MODEL, "--labels", "random:x"], USAGE, "random:SEED"),
        ([*MODEL, "--labels", "file:none.txt"], DATA, "label file none.txt"),
        ([*MODEL, "--part", "4/3"], USAGE, "'4/3' is not I/N with 1 <= I <= N"),
        ([*MODEL, "--part", "0/3"], USAGE, "'0/3' is not I/N"),
        ([*MODEL, "--tag", "mine"], USAGE, "'mine' is not KEY=VALUE"),
        ([*MODEL, "--images", "some"], USAGE, "--images"),
        ([*MODEL, "--shard-format", "npz", "--images", "grid"], USAGE, "use it with --images all"),
        ([*MODEL, "--negative-prompt", "blurry"], USAGE, "class-conditional"),
        ([*MODEL, "--weights", "none.safetensors"], DATA, "--weights none.safetensors does not"),
        ([*MODEL, "--extractor", "digits-convne"], USAGE, "did you mean 'digits-convnet'?"),
        ([*MODEL, "--reference", "digits-16-trian"], USAGE, "did you mean 'digits-16-train'?"),
        ([*MODEL, "--reference", "none.npz"], DATA, "none.npz does not exist"),
        ([*MODEL, "--metrics", "fid,sfidd"], USAGE, "did you mean 'sfid'?"),
        ([*MODEL, "--metrics", ","], USAGE, "names no metric"),
        ([*MODEL, "--num-samples", "3"], DATA, "precision needs at least 4 samples, not 3"),
        ([*MODEL, "--num-samples", "1", "--metrics", "fid"], DATA, "fid needs at least 2 samples"),
        ([*MODEL, "--device", "cuda"], ENVIRONMENT, "torch sees no GPU here"),
        ([*MODEL, "--json", "no/such/folder.json"], STORAGE, "--json no/such/folder.json"),
        ([*MODEL, "--output", "ftp://host/run"], USAGE, "give a local path, s3:// or gs://"),
        ([*MODEL, "--surprise"], USAGE, "--surprise"),
        ([], USAGE, "--model"),
    ],
    ids=lambda value: " ".join(value[2:] or value) if isinstance(value, list) else "",
)
def test_run_refuses(
    options: list[str], code: int, words: str, refuse: Refuse, tmp_path: Path
) -> None:
    if words.startswith("torch sees no GPU"):
        import torch

        if torch.cuda.is_available():
            pytest.skip("there is a GPU")
    line = refuse(code, "run", *options)
    assert words in line
    assert list(tmp_path.iterdir()) == []


def preset(tmp_path: Path, **changes: object) -> Path:
    """The digits preset as a file of one's own, with changes by dotted key."""
    source = REPOSITORY / "configs/models/pixnerd-digits.yaml"
    tree = yaml.safe_load(source.read_text())
    tree["weights"]["file"] = str(source.with_name(tree["weights"]["file"]))
    for key, value in changes.items():
        *path, last = key.split("__")
        at = tree
        for part in path:
            at = at[part]
        at[last] = value
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(tree))
    return tmp_path / "mine.yaml"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"guidance": 1.5}, "unknown key 'guidance'"),
        (
            {"sampling__num_stepps": 5},
            "key 'sampling.num_stepps': did you mean 'num_steps'?",
        ),
        (
            {"network__hidden_sise": 5},
            "key 'network.hidden_sise': did you mean 'hidden_size'?",
        ),
        ({"sampling__num_steps": 0}, "sampling.num_steps"),
        ({"sampling__solver": "rk45"}, "sampling.solver"),
        ({"family": "pixnerd-clas"}, "did you mean 'pixnerd-class'?"),
        ({"num_classes": -1}, "num_classes"),
        ({"path": "/etc"}, "unknown key 'path'"),
    ],
    ids=str,
)
def test_presets_with_faults(
    changes: dict[str, object], words: str, refuse: Refuse, tmp_path: Path
) -> None:
    assert words in refuse(USAGE, "run", "--model", preset(tmp_path, **changes), "--dry-run")


def test_a_preset_without_a_key(refuse: Refuse, tmp_path: Path) -> None:
    path = preset(tmp_path)
    path.write_text("\n".join(t for t in path.read_text().splitlines() if "batch_size" not in t))
    assert "batch_size" in refuse(USAGE, "run", "--model", path)


@pytest.mark.parametrize("content", ["a: [1, 2", "just text", "!!python/object:os.system {}"])
def test_presets_that_are_no_mapping(content: str, refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(content)
    assert "mine.yaml" in refuse(USAGE, "run", "--model", tmp_path / "mine.yaml")


def test_weights_that_are_not_the_presets(refuse: Refuse, tmp_path: Path) -> None:
    path = preset(tmp_path, weights__sha256="0" * 64)
    assert "their SHA-256 is not 000000000000" in refuse(DATA, "run", "--model", path)


def test_weights_of_another_kind(refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"no weights")
    options = ("--weights", "w.safetensors", "--index", 0)
    assert "neither safetensors nor a torch checkpoint" in refuse(DATA, "sample", *MODEL, *options)


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        ("0 1 10 " * 10, USAGE, "label 10 is out of range: the model has classes 0..9"),
        ("0 -1 " * 10, USAGE, "label -1 is out of range"),
        ("0 one", DATA, "whole numbers"),
        ("", DATA, "holds no labels"),
        ("1 2 3", USAGE, "has 3 labels; 20 samples in whole batches of 10 need 20"),
    ],
)
def test_label_files_with_faults(
    content: str, code: int, words: str, refuse: Refuse, tmp_path: Path
) -> None:
    (tmp_path / "labels.txt").write_text(content)
    options = ("--labels", "file:labels.txt", "--num-samples", 20)
    assert words in refuse(code, "run", *PLAN, *options)


def test_a_label_file_and_classes_exclude_each_other(refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("1 " * 20)
    options = ("--labels", "file:labels.txt", "--classes", "1")
    assert "exclude each other" in refuse(USAGE, "run", *PLAN, *options)


@pytest.mark.ray
@pytest.mark.parametrize("command", ["run", "generate"])
def test_the_output_of_another_plan(command: str, run_copy: Path, refuse: Refuse) -> None:
    before = bytes_of(run_copy)
    other = ("--num-steps", 5, "--batch-size", 10, "--guidance-scale", 2.5, "--output", run_copy)
    line = refuse(USAGE, command, *MODEL, *other)
    assert "holds a run of another plan" in line
    assert "sampling.num_steps is 4 there, 5 was asked" in line
    assert "sampling.guidance_scale is 1.5 there, 2.5 was asked" in line
    assert "batch_size" not in line
    assert bytes_of(run_copy) == before


def test_an_output_that_holds_other_files(refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("precious")
    assert "holds other files" in refuse(USAGE, "run", *PLAN, "--output", "mine")
    assert bytes_of(tmp_path / "mine") == {"thesis.tex": b"precious"}


@pytest.mark.parametrize("output", ["file", "file/below"])
def test_an_output_at_or_below_a_file(output: str, refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    assert "a file stands where a directory is needed" in refuse(
        STORAGE, "run", *PLAN, "--output", output
    )


def test_an_output_on_a_read_only_disk(refuse: Refuse, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        line = refuse(STORAGE, "generate", *PLAN, "--num-samples", 10, "--output", disk / "run")
    assert "Read-only file system" in line


def test_a_disk_that_is_too_small_is_said_before_any_work(refuse: Refuse, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "200k") as disk:
        line = refuse(STORAGE, "generate", *PLAN, "--num-samples", 5000, "--output", disk / "run")
        assert list(disk.iterdir()) == []
    assert "are needed" in line
    assert "are free" in line


@pytest.mark.ray
def test_a_disk_that_fills_up_in_the_middle(
    cluster: HostedCluster, call: Callable[..., Outcome], tmp_path: Path, expected: dict[int, str]
) -> None:
    """What was committed stays, and once there is room the same command completes the run."""
    where = ("--address", cluster.address, "--num-workers", 1, "--shard-size", 10)
    with small_disk(tmp_path / "disk", "256k") as disk:
        run = disk / "run"
        command = ("generate", *PLAN, "--num-samples", NUM_SAMPLES, "--output", run, *where)
        full = call(*command)
        assert full.code == STORAGE, full
        (line,) = full.complaints
        assert "No space left on device: free some space and run the same command again" in line
        assert full.stdout == ""
        standing = pixel_hashes(run)
        assert 0 < len(standing) < NUM_SAMPLES
        assert standing.items() <= expected.items()
        named = {file["path"] for receipt in receipts(run) for file in receipt["files"]}
        assert {f"images/{p.name}" for p in (run / "images").iterdir()} >= named

        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        again = call(*command)
        assert again.code == 0, again.stderr
        assert pixel_hashes(run) == expected
        assert attempts(run)[-1]["images_made"] == NUM_SAMPLES - len(standing)
        assert call("gc", run, "--force").code == 0
        named = {file["path"] for receipt in receipts(run) for file in receipt["files"]}
        assert {f"images/{p.name}" for p in (run / "images").iterdir()} == named


@pytest.mark.ray
def test_overlapping_runs_are_not_averaged(run_copy: Path, refuse: Refuse, tmp_path: Path) -> None:
    from evalsuite.config import Plan

    manifest = json.loads((run_copy / "manifest.json").read_text())
    shifted = {**manifest["plan"], "first_seed": 50}
    plan_id = Plan.model_validate(shifted).plan_id
    other = tmp_path / "other"
    shutil.copytree(run_copy / "attempts", other / "attempts")
    (other / "manifest.json").write_text(
        json.dumps({**manifest, "plan": shifted, "plan_id": plan_id})
    )
    line = refuse(USAGE, "evaluate", run_copy, other)
    assert "share 150 of 200 samples" in line
    assert "use --replicate" in line
    assert "share 200 of 200 samples" in refuse(USAGE, "evaluate", run_copy, run_copy)


@pytest.mark.parametrize("command", ["status", "verify", "report", "gc"])
def test_a_folder_that_is_no_run(command: str, refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert "mine is not a run directory" in refuse(USAGE, command, "mine")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--index", "-1"], "--index"),
        (["--index", "0", "--output", "file/one.png"], "a file stands where a directory is needed"),
    ],
)
def test_sample_refuses(options: list[str], words: str, refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    code = STORAGE if "--output" in options else USAGE
    assert words in refuse(code, "sample", *PLAN, *options)


def test_sample_says_what_it_computes(
    call: Callable[..., Outcome], refuse: Refuse, tmp_path: Path
) -> None:
    """One batch, whole; noise is called noise; hours without a GPU are asked for."""
    rate = {"device": "cpu", "seconds_per_evaluation": 1000, "source": "a guess"}
    slow = {"extends": "pixnerd-digits", "name": "slow", "known_rates": [rate]}
    (tmp_path / "slow.yaml").write_text(yaml.safe_dump(slow))
    model = ("--model", "slow.yaml", "--num-steps", 1, "--guidance-scale", 1, "--index", 0)
    few = (*model, "--batch-size", 2, "--device", "cpu")
    assert "about 33.3 min" in call("sample", *few, "--weights", "random:1").stderr
    many = (*model, "--batch-size", 20, "--device", "cpu")
    (tmp_path / "slow-0.png").unlink()
    line = refuse(USAGE, "sample", *many)
    assert "this is about 5.6 h of work on a machine without GPU (a guess): add --yes" in line
    said = call("sample", *many, "--yes", "--weights", "random:1").stderr
    assert "computing one batch of 20 images, NFE 1: about 5.6 h" in said
    assert "RANDOM WEIGHTS: the image is noise" in said


def test_a_stopped_sample_does_not_promise_that_anything_stays(tmp_path: Path) -> None:
    process = start("sample", *MODEL, "--num-steps", 4000, "--index", 0, cwd=tmp_path)
    assert process.stderr is not None
    assert process.stderr.readline().startswith("evalsuite: computing one batch")
    process.terminate()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143
    assert stderr.splitlines()[-1] == "evalsuite: stopped by SIGTERM: run the same command again"


def test_debug_shows_the_traceback(call: Callable[..., Outcome]) -> None:
    from evalsuite.errors import UsageError

    with pytest.raises(UsageError):
        call("--debug", "models", "show", "nothing")

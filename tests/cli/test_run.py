"""What the commands leave, print and return around one finished run of the digits model."""

import csv
import hashlib
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness import (
    NUM_SAMPLES,
    PLAN,
    FinishedRun,
    Outcome,
    attempts,
    bytes_of,
    environment,
    pixel_hashes,
    png_hash,
    receipts,
)
from PIL import Image

from evalsuite.artifacts.images import encode_png, pixel_sha256
from evalsuite.artifacts.receipts import digest_of_pixels

METRICS = ["fid", "sfid", "inception_score", "precision", "recall"]
ALL = (*PLAN, "--num-samples", NUM_SAMPLES)
REFERENCE = ("--reference", "digits-16-train")
SPY = """
import json, os, sys
started = []
def hook(event, arguments):
    if event == "subprocess.Popen":
        started.append(" ".join(map(os.fsdecode, arguments[1])))
sys.addaudithook(hook)
from evalsuite.cli.main import main
try:
    main(sys.argv[2:])
except SystemExit as ended:
    code = ended.code
with open(sys.argv[1], "w") as report:
    json.dump({"code": code, "modules": sorted(sys.modules), "started": started}, report)
"""

pytestmark = pytest.mark.ray  # the finished run needs it

SAME = 1e-9


def spied(*arguments: object, cwd: Path) -> dict:
    """Run a command in a process that notes its modules and the programs that it starts."""
    command = [sys.executable, "-c", SPY, cwd / "spy.json", *map(str, arguments)]
    env = environment(private=True)
    subprocess.run(command, cwd=cwd, env=env, capture_output=True, check=True)
    return json.loads((cwd / "spy.json").read_text())


def values(content: dict) -> dict[str, tuple]:
    """Value and error by metric of a `--json` file."""
    return {k: (m["value"], m["standard_error"]) for k, m in content["metrics"].items()}


def assert_same(ours: dict[str, tuple], theirs: dict[str, tuple]) -> None:
    """Bits are promised for features; values and errors agree to SAME on any number of threads."""
    assert ours.keys() == theirs.keys()
    for name, pair in ours.items():
        for ours_part, theirs_part in zip(pair, theirs[name], strict=True):
            expected = None if theirs_part is None else pytest.approx(theirs_part, rel=SAME)
            assert ours_part == expected, name


def test_json_has_what_the_contract_says(digits_run: FinishedRun) -> None:
    content = digits_run.json
    manifest = json.loads((digits_run.path / "manifest.json").read_text())
    assert content["plan_id"] == manifest["plan_id"]
    assert content["num_samples"] == NUM_SAMPLES
    assert list(content["metrics"]) == METRICS
    for metric in content["metrics"].values():
        assert {"value", "standard_error", "protocol_id"} <= metric.keys()
        assert isinstance(metric["value"], float)
    assert content["metrics"]["fid"]["standard_error"] > 0
    assert len({metric["protocol_id"] for metric in content["metrics"].values()}) == 5
    assert all(seconds > 0 for seconds in content["seconds"].values())
    assert content["seconds"]["total"] >= content["seconds"]["generate"]
    speed = NUM_SAMPLES / content["seconds"]["generate"]
    assert content["images_per_second"] == pytest.approx(speed, rel=0.01)


def test_plan_id_is_the_hash_of_the_plan(digits_run: FinishedRun) -> None:
    manifest = json.loads((digits_run.path / "manifest.json").read_text())
    canonical = json.dumps(manifest["plan"], sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(canonical.encode()).hexdigest() == manifest["plan_id"]


def test_stdout_has_results_and_stderr_the_rest(digits_run: FinishedRun) -> None:
    stdout, stderr = digits_run.outcome.stdout, digits_run.outcome.stderr
    for name in ("FID", "sFID", "IS", "Precision", "Recall"):
        assert f"digits-{name}-200" in stdout
    assert "images/s" not in stdout
    assert f"images {NUM_SAMPLES}/{NUM_SAMPLES}" in stderr
    assert "FID" not in stderr
    assert "Traceback" not in stderr
    assert "ray" not in stderr.casefold()


def test_the_last_line_is_ready_to_paste(digits_run: FinishedRun) -> None:
    line = digits_run.outcome.stdout.splitlines()[-1]
    plan_id = digits_run.json["plan_id"]
    said = ("digits-FID-200", "reference digits-16-train", "labels modulo", "NFE ", "guidance 1.5")
    for words in (*said, "float32", "seeds 0..199", f"plan {plan_id[:12]}"):
        assert words in line


def test_the_run_directory_is_as_documented(digits_run: FinishedRun) -> None:
    run = digits_run.path
    assert {path.name for path in run.iterdir()} == {
        "manifest.json",
        "live",
        "numerics.json",
        "attempts",
        "images",
        "features",
        "receipts",
        "results",
        "report",
        "README.md",
    }
    (extractor,) = (path.name for path in (run / "features").iterdir())
    images, features = receipts(run), receipts(run, f"features/{extractor}")
    assert [r["start"] for r in images] == [r["start"] for r in features] == [*range(0, 200, 20)]
    for receipt in [*images, *features]:
        (file,) = receipt["files"]
        content = (run / file["path"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == file["sha256"]
        assert len(content) == file["num_bytes"]
        assert Path(file["path"]).name.startswith(
            f"{receipt['start']:010d}-{receipt['stop']:010d}-"
        )
    (attempt,) = attempts(run)
    assert attempt["outcome"] == "complete"
    assert attempt["exit_code"] == 0
    assert attempt["asked"]["num-samples"] == [[str(NUM_SAMPLES)]]
    assert attempt["resolved"]["gpus_per_worker"] == 1
    assert {"torch", "ray", "numpy", "python"} <= attempt["packages"].keys()


def test_datasets_opens_the_run_as_images(digits_run: FinishedRun) -> None:
    import datasets

    opened = datasets.load_dataset(str(digits_run.path), split="train")
    assert opened["sample_index"] == list(range(NUM_SAMPLES))
    assert opened["seed"] == list(range(NUM_SAMPLES))
    assert opened["label"] == [i % 10 for i in range(NUM_SAMPLES)]
    for row in opened:
        assert row["image"].size == (16, 16)
        pixels = np.asarray(row["image"]).tobytes()
        assert hashlib.sha256(pixels).hexdigest() == row["pixel_sha256"]


def test_the_same_command_again_does_nothing(run_copy: Path, tmp_path: Path) -> None:
    before = bytes_of(run_copy)
    spy = spied("run", *ALL, "--images", "all", "--output", run_copy, "--json", "j", cwd=tmp_path)
    assert spy["code"] == 0
    assert not [command for command in spy["started"] if "raylet" in command or "gcs" in command]
    last = attempts(run_copy)[-1]
    assert (last["workers"], last["images_made"]) == (0, 0)
    after = bytes_of(run_copy)
    for folder in ("images/", "features/", "receipts/", "manifest.json"):
        assert {k: v for k, v in after.items() if k.startswith(folder)} == {
            k: v for k, v in before.items() if k.startswith(folder)
        }


def test_the_same_command_again_has_the_same_numbers(
    run_copy: Path, digits_run: FinishedRun, call: Callable[..., Outcome], tmp_path: Path
) -> None:
    outcome = call("run", *ALL, "--output", run_copy, "--json", "again.json")
    assert outcome.code == 0, outcome.stderr
    again = json.loads((tmp_path / "again.json").read_text())
    assert_same(values(again), values(digits_run.json))
    assert again["images_made"] == 0
    assert "evalsuite: nothing was missing" in outcome.complaints


def test_a_dry_run_says_the_cost_and_writes_nothing(
    call: Callable[..., Outcome], tmp_path: Path
) -> None:
    outcome = call("run", *ALL, "--output", "made", "--dry-run", "--shard-size", 40)
    assert outcome.code == 0
    said = dict(line.split(maxsplit=1) for line in outcome.stdout.splitlines())
    assert len(said["plan_id"]) == 64
    assert said["nfe_per_image"] == "6"  # 4 evaluations, 2 of them guided
    assert said["images_missing"] == "200"
    assert said["shards_missing"] == "5"
    assert said["images_done"] == said["shards_done"] == "0"
    assert {"disk", "seconds", "rate_from"} <= said.keys()
    assert list(tmp_path.iterdir()) == []


def test_fewer_samples_than_a_batch_get_a_hint(call: Callable[..., Outcome]) -> None:
    """With the numbers of the command; no hint where whole batches are asked for."""
    few = ("generate", "--model", "pixnerd-digits", "--num-samples", 2, "--dry-run")
    outcome = call(*few, "--batch-size", 16)
    assert outcome.code == 0, outcome.stderr
    hint = "a batch of 16 is computed whole; --batch-size 2 makes only what is asked (another plan)"
    assert outcome.stderr.strip() == f"evalsuite: {hint}"
    assert call(*few, "--batch-size", 2).stderr == ""


def test_a_dry_run_says_which_classes_names_are(call: Callable[..., Outcome]) -> None:
    options = ("--model", "pixnerd-digits", "--classes", "seven,0-2", "--dry-run")
    said = call("generate", *options, "--json", "cost.json").stdout.splitlines()
    assert [line.split(maxsplit=1)[1] for line in said if line.startswith("classes ")] == [
        "7, 0, 1, 2"
    ]


def test_a_dry_run_counts_what_stands(run_copy: Path, call: Callable[..., Outcome]) -> None:
    before = bytes_of(run_copy)
    options = ("--num-samples", 300, "--images", "all", "--output", run_copy, "--dry-run")
    outcome = call("run", *PLAN, *options)
    assert outcome.code == 0, outcome.stderr
    said = dict(line.split(maxsplit=1) for line in outcome.stdout.splitlines())
    assert (said["images_done"], said["images_missing"]) == ("200", "100")
    assert bytes_of(run_copy) == before


def test_a_forecast_leaves_out_damaged_receipts_alone(
    run_copy: Path, call: Callable[..., Outcome]
) -> None:
    """Nine of ten shards stand; a run of hours would else refuse to repair the one."""
    (run_copy / "receipts/images/0000000120-0000000140.json").write_text("{broken")
    options = ("--num-samples", 200, "--images", "all", "--output", run_copy, "--dry-run")
    outcome = call("run", *PLAN, *options)
    assert outcome.code == 0, outcome.stderr
    said = dict(line.split(maxsplit=1) for line in outcome.stdout.splitlines())
    assert (said["images_done"], said["images_missing"]) == ("180", "20")
    assert said["shards_done"] == "9"


@pytest.mark.parametrize("beside", [True, False])
def test_more_than_an_hour_wants_yes(
    beside: bool, run_copy: Path, call: Callable[..., Outcome], tmp_path: Path
) -> None:
    """The rate is known from a run beside it, or else from the preset."""
    folder = run_copy.parent if beside else tmp_path / "elsewhere"
    folder.mkdir(exist_ok=True)
    output = folder / "file"
    output.write_text("so that the work cannot begin, should it not be refused")
    command = ("run", *PLAN, "--images", "none", "--num-workers", 1, "--output", output)
    refused = call(*command, "--num-samples", 2_000_000)
    assert refused.code == 2
    (line,) = refused.complaints
    assert "add --yes" in line
    assert ("receipts of" in line) == beside
    assert call(*command, "--num-samples", 2_000_000, "--yes").code == 5
    assert call(*command, "--num-samples", 2_000).code == 5


def test_evaluate_scores_the_run_again(
    run_copy: Path, digits_run: FinishedRun, call: Callable[..., Outcome], tmp_path: Path
) -> None:
    outcome = call("evaluate", run_copy, "--json", "again.json")
    assert outcome.code == 0, outcome.stderr
    again = json.loads((tmp_path / "again.json").read_text())
    assert_same(values(again), values(digits_run.json))
    assert again["plan_id"] == digits_run.json["plan_id"]
    assert outcome.stderr == ""


def test_evaluate_scores_a_prefix(
    run_copy: Path, digits_run: FinishedRun, call: Callable[..., Outcome], tmp_path: Path
) -> None:
    outcome = call("evaluate", run_copy, "--num-samples", 150, "--json", "prefix.json")
    assert outcome.code == 0, outcome.stderr
    prefix = json.loads((tmp_path / "prefix.json").read_text())
    assert prefix["num_samples"] == 150
    assert "digits-FID-150" in outcome.stdout
    whole = values(digits_run.json)
    assert all(values(prefix)[name] != whole[name] for name in METRICS)
    ids = {m["protocol_id"] for c in (prefix, digits_run.json) for m in c["metrics"].values()}
    assert len(ids) == 10
    npz = tmp_path / "prefix.npz"
    exported = call(
        "export", run_copy, *("--format", "adm-npz", "--output", npz, "--num-samples", 150)
    )
    assert exported.code == 0
    assert call("evaluate", npz, *REFERENCE, "--json", "npz.json").code == 0
    outside = json.loads((tmp_path / "npz.json").read_text())
    assert points(outside) == pytest.approx(points(prefix), rel=SAME)


def points(content: dict) -> dict[str, float]:
    """Values alone: samples of unknown label rule have another standard error."""
    return {name: metric["value"] for name, metric in content["metrics"].items()}


@pytest.mark.parametrize("kind", ["npz", "png", "parquet"])
def test_the_same_pixels_from_elsewhere_have_the_same_numbers(
    kind: str, digits_run: FinishedRun, call: Callable[..., Outcome], tmp_path: Path
) -> None:
    """Bit-equal features give equal numbers; parquet is the run's own folder of shards."""
    source = digits_run.path / "images" if kind == "parquet" else tmp_path / f"samples.{kind}"
    if kind != "parquet":
        layout = {"npz": "adm-npz", "png": "png"}[kind]
        exported = call("export", digits_run.path, "--format", layout, "--output", source)
        assert exported.code == 0, exported.stderr
    outcome = call("evaluate", source, *REFERENCE, "--json", "out.json")
    assert outcome.code == 0, outcome.stderr
    content = json.loads((tmp_path / "out.json").read_text())
    assert points(content) == pytest.approx(points(digits_run.json), rel=SAME)
    assert content["num_samples"] == NUM_SAMPLES
    assert content["plan_id"] is None


def test_evaluating_images_starts_no_ray(digits_run: FinishedRun, tmp_path: Path) -> None:
    command = ("export", digits_run.path, "--format", "png", "--output", "pngs")
    spied(*command, cwd=tmp_path)
    spy = spied("evaluate", "pngs", *REFERENCE, "--metrics", "fid", cwd=tmp_path)
    assert spy["code"] == 0
    assert "torch" in spy["modules"]
    assert "ray" not in spy["modules"]
    assert not [command for command in spy["started"] if "raylet" in command or "gcs" in command]


def test_export_writes_adm_npz(
    digits_run: FinishedRun, call: Callable[..., Outcome], tmp_path: Path
) -> None:
    outcome = call("export", digits_run.path, "--format", "adm-npz", "--output", "s.npz")
    assert outcome.code == 0, outcome.stderr
    archive = np.load(tmp_path / "s.npz")
    assert archive["arr_0"].shape == (NUM_SAMPLES, 16, 16, 3)
    assert archive["arr_0"].dtype == np.uint8
    hashes = [hashlib.sha256(image.tobytes()).hexdigest() for image in archive["arr_0"]]
    assert dict(enumerate(hashes)) == pixel_hashes(digits_run.path)
    assert (archive["arr_1"] == np.arange(NUM_SAMPLES) % 10).all()
    assert hashlib.sha256((tmp_path / "s.npz").read_bytes()).hexdigest() in outcome.stdout


def test_export_writes_pngs(
    digits_run: FinishedRun, call: Callable[..., Outcome], tmp_path: Path
) -> None:
    command = ("export", digits_run.path, "--format", "png", "--output", "pngs")
    assert call(*command, "--num-samples", 30).code == 0
    files = sorted((tmp_path / "pngs").iterdir())
    assert [file.name for file in files] == [f"{i:010d}.png" for i in range(30)]
    expected = pixel_hashes(digits_run.path)
    assert [png_hash(file.read_bytes()) for file in files] == [expected[i] for i in range(30)]


def test_export_refuses_to_overwrite(
    digits_run: FinishedRun, call: Callable[..., Outcome], tmp_path: Path
) -> None:
    (tmp_path / "s.npz").write_text("mine")
    outcome = call("export", digits_run.path, "--format", "adm-npz", "--output", "s.npz")
    assert outcome.code == 2
    assert (tmp_path / "s.npz").read_text() == "mine"


def test_status_shows_what_stands_and_what_is_missing(
    run_copy: Path, call: Callable[..., Outcome]
) -> None:
    whole = call("status", run_copy)
    assert whole.code == 0
    assert "asked   200 samples" in whole.stdout
    assert "images: 200 samples in 10 shards, complete" in whole.stdout
    (run_copy / "receipts/images/0000000040-0000000060.json").unlink()
    assert "images: 180 samples in 9 shards, missing 40..59" in call("status", run_copy).stdout


def test_verify_recomputes_batches(run_copy: Path, call: Callable[..., Outcome]) -> None:
    outcome = call("verify", run_copy, "--num-batches", 3)
    assert outcome.code == 0, outcome.stderr
    assert outcome.stdout.count(": equal") == 3
    assert "match their receipts" in outcome.stdout


def test_verify_finds_pixels_that_the_plan_does_not_give(
    run_copy: Path, call: Callable[..., Outcome]
) -> None:
    """Receipts and files that are consistent in themselves, but show every digit inverted."""
    shutil.rmtree(run_copy / "receipts/features")  # they would not fit, which is found first
    for path in (run_copy / "receipts/images").iterdir():
        receipt = json.loads(path.read_text())
        data = run_copy / receipt["files"][0]["path"]
        rows = pq.read_table(data).to_pylist()
        for row in rows:
            image = 255 - np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))
            row["image"]["bytes"] = encode_png(image)
            row["pixel_sha256"] = pixel_sha256(image)
        pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(data)), data)
        hashes = [row["pixel_sha256"] for row in rows]
        receipt |= {"pixel_sha256": hashes, "pixels_digest": digest_of_pixels(hashes)}
        receipt["files"][0] |= {
            "num_bytes": data.stat().st_size,
            "sha256": hashlib.sha256(data.read_bytes()).hexdigest(),
        }
        path.write_text(json.dumps(receipt))
    outcome = call("verify", run_copy, "--num-batches", 1)
    assert outcome.code == 3
    (line,) = outcome.complaints
    assert "other pixels on equal numerics" in line


def test_gc_removes_what_no_receipt_names(run_copy: Path, call: Callable[..., Outcome]) -> None:
    before = bytes_of(run_copy)
    (extractor,) = (run_copy / "features").iterdir()
    for name in (
        "images/0000000000-0000000020-lost.parquet",
        f"features/{extractor.name}/lost.safetensors",
    ):
        (run_copy / name).write_bytes(b"lost")
    assert call("gc", run_copy).stdout.splitlines() == [
        "0 files removed; 2 kept, younger than an hour: --force removes them too"
    ]
    listed = call("gc", run_copy, "--dry-run", "--force")
    assert listed.stdout.splitlines()[-1] == "2 files would be removed"
    assert len(bytes_of(run_copy)) == len(before) + 2
    assert call("gc", run_copy, "--force").stdout.splitlines()[-1] == "2 files removed"
    assert bytes_of(run_copy) == before


def test_report_is_written_again(run_copy: Path, call: Callable[..., Outcome]) -> None:
    page = run_copy / "report/index.html"
    page.unlink()
    outcome = call("report", run_copy)
    assert outcome.code == 0
    assert outcome.stdout.strip() == str(page)
    text = page.read_text()
    assert "digits-FID-200" in text
    assert "https://" not in text.replace("https://doi.org", "")


@pytest.mark.parametrize(
    ("catalogue", "name", "words"),
    [
        ("models", "pixnerd-digits", "family: pixnerd-class"),
        ("references", "digits-16-train", "statistics of: 1,257 images"),
        ("extractors", "digits-convnet", "pool_dim: 64"),
    ],
)
def test_catalogues(catalogue: str, name: str, words: str, call: Callable[..., Outcome]) -> None:
    listed = call(catalogue, "list")
    assert name in [line.split()[0] for line in listed.stdout.splitlines()]
    shown = call(catalogue, "show", name)
    assert (listed.code, shown.code) == (0, 0)
    assert words in shown.stdout
    unknown = call(catalogue, "show", name[:-1] + "x")
    assert unknown.code == 2
    assert unknown.complaints == [
        f"evalsuite: unknown {catalogue[:-1]} {name[:-1] + 'x'!r}: did you mean {name!r}?"
    ]


def test_doctor_names_what_is_missing_and_how_to_add_it(call: Callable[..., Outcome]) -> None:
    import importlib.util

    outcome = call("doctor")
    assert outcome.code == 0
    lines = {row[0]: row for row in csv.reader(io.StringIO(outcome.stdout), delimiter=" ") if row}
    assert {"python", "torch", "ray", "GPU", "HOME"} <= lines.keys()
    for module, extra in [("tensorflow", "tensorflow"), ("diffusers", "diffusers"), ("s3fs", "s3")]:
        (line,) = (text for text in outcome.stdout.splitlines() if text.startswith(module))
        missing = importlib.util.find_spec(module) is None
        assert (f"pip install 'evalsuite[{extra}]'" in line) == missing


def test_version(call: Callable[..., Outcome]) -> None:
    from evalsuite import __version__

    assert call("--version").stdout == f"evalsuite, version {__version__}\n"


def test_verify_leaves_in_peace(digits_run: FinishedRun, tmp_path: Path) -> None:
    """As a process of its own: threads of Arrow's once aborted every second one at its end."""
    command = [sys.executable, "-m", "evalsuite", "verify", str(digits_run.path)]
    command += ["--num-batches", "1"]
    env = environment(private=True)
    for _ in range(2):
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")

"""`evalsuite why` as a person types it: runs, NPZ files and folders, claims and references."""

import json
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from harness import FinishedRun, Outcome
from PIL import Image
from safetensors.torch import load_file, save_file

from evalsuite.artifacts.manifest import Manifest
from evalsuite.artifacts.run_directory import IMAGES, RunDirectory
from evalsuite.pipeline.evaluation import samples_of_run
from evalsuite.pipeline.plan import PlanOptions, resolve_plan
from evalsuite.pipeline.ranges import ShardTask
from evalsuite.pipeline.stages import OutputFormat
from evalsuite.pipeline.weights import WeightsRequest
from evalsuite.pipeline.worker import ShardWorker, WorkerJob

pytestmark = pytest.mark.ray
REPOSITORY = Path(__file__).parents[2]
USAGE, DATA = 2, 3
Call = Callable[..., Outcome]


def small_run(root: Path, weights: WeightsRequest | None = None, **sampling: Any) -> Path:
    """A real run of 20 digits in two steps, without Ray."""
    found = resolve_plan(
        PlanOptions(
            model="pixnerd-digits",
            batch_size=10,
            sampling={"num_steps": 2, **sampling},
            weights=weights or WeightsRequest(),
        )
    )
    manifest = Manifest(
        model="pixnerd-digits",
        plan_id=found.plan.plan_id,
        plan=found.plan,
        formats={},
        created_at="2026-01-01T00:00:00+00:00",
    )
    run = RunDirectory.create_or_open(root, manifest)
    run.write_json("attempts/one.json", {"resolved": {"num_samples": 20}})
    output = OutputFormat("all", "parquet")
    worker = ShardWorker(WorkerJob(str(root), found.materials, (), output, "cpu"))
    worker.load()
    task = ShardTask(0, 20, (IMAGES,))
    for part in (worker.prepare, worker.compute):
        Thread(target=part, args=(task, "a1"), daemon=True).start()
    worker.commit(task, "a1")
    return root


def told(call: Call, tmp_path: Path, *arguments: object) -> dict[str, Any]:
    """What --json holds."""
    outcome = call("why", *arguments, "--json", "why.json")
    assert outcome.code == 0, outcome.stderr
    content: dict[str, Any] = json.loads((tmp_path / "why.json").read_text())
    return content


def first(content: dict[str, Any]) -> dict[str, Any]:
    """The strongest finding."""
    found: dict[str, Any] = content["findings"][0]
    return found


def test_a_clean_run_says_that_nothing_was_found(
    call: Call, tmp_path: Path, digits_run: FinishedRun
) -> None:
    """It says which probes looked, which could not and why; other settings are only noted."""
    outcome = call("why", digits_run.path, "--json", "why.json")
    assert outcome.code == 0, outcome.stderr
    assert "nothing was found" in outcome.stdout
    content = json.loads((tmp_path / "why.json").read_text())
    assert content["findings"] == []
    assert (content["num_looked_at"], content["reference"]) == (200, "digits-16-train")
    assert {"labels", "jpeg", "uint8", "guidance", "ema", "reference"} <= set(content["clear"])
    assert "grey" in content["cannot_tell"]["channels"]
    for probe in (*content["clear"], *content["cannot_tell"]):
        assert f"  {probe}: " in outcome.stdout
    assert any("num_steps: 4" in remark for remark in content["remarks"])


def test_a_faulty_npz_and_a_folder(call: Call, tmp_path: Path, digits_run: FinishedRun) -> None:
    """Two faults in one file; the report has them in order, with what to do."""
    samples = samples_of_run(RunDirectory.open(digits_run.path), 200)
    images = np.concatenate(list(samples.portions(200)))
    labels = samples.labels_N
    copied = images.copy()
    copied[:10] = images[100:110]
    np.savez(tmp_path / "bad.npz", arr_0=copied, arr_1=(labels + 1) % 10)
    outcome = call("why", "bad.npz", "--claim", "pixnerd-digits")
    assert outcome.code == 0, outcome.stderr
    assert "nothing was found" not in outcome.stdout
    lines = outcome.stdout.splitlines()
    assert lines[1].startswith("1. duplicates (probe duplicates, strength ")
    assert [line for line in lines if line.startswith("2. labels shifted by +1 ")]
    assert sum("to do: " in line for line in lines) == 2
    (tmp_path / "folder").mkdir()
    for place, image in enumerate(images[:140]):
        Image.fromarray(image).save(tmp_path / f"folder/{place:04}.jpg", quality=92)
    assert first(told(call, tmp_path, "folder"))["name"] == "JPEG blocks"


def test_settings_of_a_run_are_compared_with_its_model(call: Call, tmp_path: Path) -> None:
    """Guidance that is off, an interval that is reversed, raw weights: what is written counts."""
    off = small_run(tmp_path / "off", guidance_scale=1.0)
    assert first(told(call, tmp_path, off))["name"] == "guidance off"
    turned = small_run(tmp_path / "turned", guidance_interval=(0.3, 0.9))
    found = first(told(call, tmp_path, turned, "--claim", "pixnerd-digits"))
    assert found["name"] == "guidance interval reversed"
    assert (found["probe"], found["strength"]) == ("guidance_interval", 100)
    weights = load_file(REPOSITORY / "configs/models/pixnerd-digits.safetensors")
    both = {f"ema_denoiser.{name}": value for name, value in weights.items()}
    both |= {f"denoiser.{name}": value * 1.02 for name, value in weights.items()}
    save_file(both, tmp_path / "both.safetensors")
    asked = WeightsRequest(str(tmp_path / "both.safetensors"), "raw")
    found = first(told(call, tmp_path, small_run(tmp_path / "raw", asked)))
    assert found["name"] == "raw weights instead of EMA"


def test_references_of_a_wrong_kind(call: Call, tmp_path: Path, digits_run: FinishedRun) -> None:
    """By size, by extractor, by what the claim is against, and by the images themselves."""
    run = digits_run.path
    for name, words in (
        ("adm-imagenet-256", "it is of 256x256 images, the samples are 16x16"),
        ("wide.npz", "mu has 2048 values"),
        ("digits-16-heldout", "is against digits-16-train"),
    ):
        np.savez(tmp_path / "wide.npz", mu=np.zeros(2048), sigma=np.eye(2048))
        found = first(told(call, tmp_path, run, "--reference", name))
        assert found["name"] == "wrong reference"
        assert words in found["evidence"]
    with np.load(REPOSITORY / "reference_stats/digits-16-train.npz") as file:
        negatives = 255 - file["arr_0"]
    np.savez(tmp_path / "negatives.npz", arr_0=negatives)
    samples = samples_of_run(RunDirectory.open(run), 200)
    np.savez(tmp_path / "s.npz", arr_0=np.concatenate(list(samples.portions(200))))
    found = first(told(call, tmp_path, "s.npz", "--reference", "negatives.npz"))
    assert found["name"] == "wrong reference"
    assert "to digits-16-train" in found["evidence"]
    assert found["effect"] > 1


def test_guidance_off_is_seen_in_samples(call: Call, tmp_path: Path) -> None:
    """No setting is recorded in an NPZ: some samples are made again."""
    off = RunDirectory.open(small_run(tmp_path / "off", guidance_scale=1.0, num_steps=8))
    images = np.concatenate(list(samples_of_run(off, 20).portions(20)))
    np.savez(tmp_path / "off.npz", arr_0=images)
    found = first(told(call, tmp_path, "off.npz", "--claim", "pixnerd-digits"))
    assert (found["name"], found["probe"]) == ("guidance off", "guidance_in_samples")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["none.npz"], DATA, "does not exist"),
        (["few.npz"], DATA, "fewer than 16"),
        (["few.npz", "--claim", "pixnerd-digit"], USAGE, "did you mean 'pixnerd-digits'"),
        (["some.npz", "--reference", "digits-16-trian"], USAGE, "did you mean 'digits-16-train'"),
        (["some.npz", "--reference", "none.npz"], DATA, "does not exist"),
        (["some.npz", "--extractor", "nobody"], USAGE, "nobody"),
        (["some.npz", "--json", "no/where.json"], 5, "cannot be written"),
    ],
)
def test_bad_input_is_one_line(
    call: Call, tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    np.savez(tmp_path / "few.npz", arr_0=np.zeros((3, 16, 16, 3), np.uint8))
    noise = np.random.default_rng(0).integers(0, 256, (30, 16, 16, 3)).astype(np.uint8)
    np.savez(tmp_path / "some.npz", arr_0=noise)
    outcome = call("why", *arguments)
    assert (outcome.code, outcome.stdout) == (code, "")
    (line,) = outcome.stderr.splitlines()
    assert words in line

"""The mission's own line from a full-size Lightning checkpoint, with its time and memory."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from harness import descendants, environment, finish, pixel_hashes, start

from evalsuite.config import ModelPreset, load_spec
from evalsuite.models.checkpoints.reading import open_checkpoint
from evalsuite.models.loading import load_module
from jobs.checkpoints.write_lightning import SEEDS, write_lightning

pytestmark = pytest.mark.slow

MODEL = "pixnerd-xl-512"
PRESET = load_spec(ModelPreset, MODEL)
WEIGHTS_BYTES = 4 * PRESET.parameters
TIMEOUT_S = 3600


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Raw and averaged weights, 5.6 GB."""
    path = tmp_path_factory.mktemp("checkpoint") / "trial.ckpt"
    write_lightning(PRESET, path)
    assert path.stat().st_size > len(SEEDS) * WEIGHTS_BYTES
    yield path
    path.unlink()


def test_the_script_writes_what_a_training_saves(tmp_path: Path) -> None:
    """Two sets of weights, the training's head and optimizer; at a small size."""
    small = {"hidden_size": 64, "num_groups": 4, "num_blocks": 3, "num_cond_blocks": 2}
    preset = PRESET.model_copy(update={"network": PRESET.network | small})
    write_lightning(preset, tmp_path / "small.ckpt", "full")
    opened = open_checkpoint(tmp_path / "small.ckpt")
    assert opened.layout == "lightning"
    assert opened.about["global_step"] == 1_600_000
    assert opened.other.keys() == {"diffusion_trainer", "optimizer_states"}
    for prefix, seed in SEEDS.items():
        expected = load_module(preset.family, preset.network, None, f"random:{seed}").state_dict()
        stored = opened.tensors(prefix.removesuffix("."))
        assert stored.keys() == expected.keys()
        assert all(torch.equal(stored[key], value) for key, value in expected.items())


@pytest.mark.parametrize(("dtype", "kept"), [("float32", 1.0), ("bfloat16", 0.5)])
def test_memory_of_loading(checkpoint: Path, dtype: str, kept: float) -> None:
    """The peak is below 1.2 times the wanted weights; in bfloat16 half of them stays."""
    probe = Path(__file__).with_name("load_probe.py")
    done = subprocess.run(
        [sys.executable, probe, MODEL, checkpoint, dtype],
        env=environment(private=True),
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    sys.stdout.write(f"loading in {dtype}: {found}\n")
    assert found["peak_bytes"] < 1.2 * WEIGHTS_BYTES
    assert found["kept_bytes"] == pytest.approx(kept * WEIGHTS_BYTES, rel=0.05)


@pytest.mark.ray
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_from_the_file(checkpoint: Path, dtype: str, tmp_path: Path) -> None:
    """`evalsuite run --model pixnerd-xl-512 --weights FILE`, in a batch that this machine holds."""
    options = ("--num-samples", 2, "--num-steps", 2, "--batch-size", 2, "--yes")
    began = time.monotonic()
    process = start(
        *("run", "--model", MODEL, "--weights", checkpoint, *options, "--dtype", dtype),
        *("--images", "all", "--output", "made"),
        cwd=tmp_path,
    )
    peak_bytes = 0
    while process.poll() is None:
        peak_bytes = max([peak_bytes, *map(worker_peak, (p.pid for p in descendants(process.pid)))])
        time.sleep(1)
        assert time.monotonic() - began < TIMEOUT_S
    outcome = finish(process)
    seconds = time.monotonic() - began
    sys.stdout.write(f"run in {dtype}: {seconds:.0f} s, a worker {peak_bytes / 1e9:.2f} GB\n")
    assert outcome.code == 0, outcome.stderr
    plan = json.loads((tmp_path / "made" / "manifest.json").read_text())["plan"]
    assert plan["ema"] == "ema_denoiser"
    assert len(set(pixel_hashes(tmp_path / "made").values())) == 2
    assert WEIGHTS_BYTES < peak_bytes < 3 * WEIGHTS_BYTES


def worker_peak(pid: int) -> int:
    """The most memory that a process ever held, in bytes; 0 when it is no worker of ours."""
    folder = Path("/proc") / str(pid)
    try:
        if b"ShardWorker" not in (folder / "cmdline").read_bytes():
            return 0
        lines = (folder / "status").read_text().splitlines()
    except OSError:
        return 0
    peak = next((line for line in lines if line.startswith("VmHWM")), "VmHWM: 0 kB")
    return int(peak.split()[1]) * 1024

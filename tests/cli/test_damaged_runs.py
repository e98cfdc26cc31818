"""Damaged runs: each command says what is damaged in one clear line, and `run` repairs it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from harness import (
    NUM_SAMPLES,
    PLAN,
    HostedCluster,
    Outcome,
    attempts,
    bytes_of,
    pixel_hashes,
    receipts,
)

DATA, INCOMPLETE = 3, 4
Refuse = Callable[..., str]


def first_file(run: Path, stage: str) -> Path:
    """The data file of the third shard of a stage."""
    return run / receipts(run, stage)[2]["files"][0]["path"]


def feature_stage(run: Path) -> str:
    """The stage of the extractor whose features a run has."""
    (extractor,) = (run / "receipts/features").iterdir()
    return f"features/{extractor.name}"


def flip(file: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.ray
def test_evaluate_finds_a_corrupted_feature_shard(run_copy: Path, refuse: Refuse) -> None:
    flip(first_file(run_copy, feature_stage(run_copy)))
    line = refuse(DATA, "evaluate", run_copy)
    assert "other bytes than its receipt names (SHA-256 differs)" in line
    assert "again to repair" in line


@pytest.mark.ray
def test_evaluate_finds_a_corrupted_image_shard(run_copy: Path, refuse: Refuse) -> None:
    flip(first_file(run_copy, "images"))
    assert "SHA-256 differs" in refuse(DATA, "evaluate", run_copy)


@pytest.mark.ray
def test_evaluate_finds_a_replaced_feature_shard(run_copy: Path, refuse: Refuse) -> None:
    """A well-formed shard of NaN is still not the one that was committed."""
    from safetensors.numpy import load_file, save_file

    file = first_file(run_copy, feature_stage(run_copy))
    save_file(
        {k: v if k == "sample_index" else v * np.nan for k, v in load_file(file).items()}, file
    )
    assert "its receipt" in refuse(DATA, "evaluate", run_copy)


@pytest.mark.ray
def test_evaluate_names_what_is_missing(run_copy: Path, refuse: Refuse) -> None:
    (run_copy / "receipts" / feature_stage(run_copy) / "0000000040-0000000060.json").unlink()
    line = refuse(INCOMPLETE, "evaluate", run_copy)
    assert "features of samples 40..59 are missing" in line
    assert "run the same" in line
    line = refuse(INCOMPLETE, "evaluate", run_copy, "--num-samples", 300)
    assert "200..299" in line


@pytest.mark.ray
def test_damage_beyond_what_is_scored_stops_no_score(
    run_copy: Path, call: Callable[..., Outcome]
) -> None:
    """The report shows the whole run, so it is not written; the table and the records are there."""
    first_file(run_copy, "images").unlink()
    cut = sorted((run_copy / "receipts/images").glob("*.json"))[-1]
    cut.write_text(cut.read_text()[:100])
    scored = call("evaluate", run_copy, "--num-samples", 40, "--json", "out.json")
    assert scored.code == 0, scored.stderr
    assert [line for line in scored.complaints if "no report was written: " in line]
    assert "FID" in scored.stdout
    assert json.loads(Path("out.json").read_text())["num_samples"] == 40


@pytest.mark.ray
def test_export_finds_a_corrupted_image_shard(run_copy: Path, refuse: Refuse) -> None:
    flip(first_file(run_copy, "images"))
    line = refuse(DATA, "export", run_copy, "--format", "adm-npz", "--output", "s.npz")
    assert "is corrupted" in line
    assert not (run_copy.parent / "s.npz").exists()


@pytest.mark.ray
def test_verify_finds_every_fault_and_run_repairs_them(
    run_copy: Path, cluster: HostedCluster, call: Callable[..., Outcome], expected: dict[int, str]
) -> None:
    """Corrupted, truncated and missing shards, a receipt that is no JSON, and one that is gone."""
    before = bytes_of(run_copy)
    stage = feature_stage(run_copy)
    files = {s: [r["files"][0]["path"] for r in receipts(run_copy, s)] for s in ("images", stage)}
    flip(run_copy / files["images"][1])
    (run_copy / files["images"][3]).unlink()
    (run_copy / "receipts/images/0000000120-0000000140.json").write_text("{broken")
    (run_copy / "receipts/images/0000000180-0000000200.json").unlink()
    shard = run_copy / files[stage][5]
    shard.write_bytes(shard.read_bytes()[:-7])

    found = call("verify", run_copy)
    assert found.code == DATA
    faults = [line for line in found.stdout.splitlines() if line.startswith("fault: ")]
    assert len(faults) == 4
    for place in (files["images"][1], files["images"][3], "0000000120-0000000140", shard.name):
        assert len([fault for fault in faults if str(place) in fault]) == 1, place
    (line,) = found.complaints
    assert "4 committed shard(s) are damaged or missing" in line

    command = ("run", *PLAN, "--num-samples", NUM_SAMPLES, "--images", "all", "--output", run_copy)
    repaired = call(*command, "--address", cluster.address, "--num-workers", 1, "--shard-size", 20)
    assert repaired.code == 0, repaired.stderr
    assert len([t for t in repaired.complaints if t.endswith("this shard is made again")]) == 4
    last = attempts(run_copy)[-1]
    assert len(last["repaired"]) == 4
    assert last["images_made"] == 100
    assert pixel_hashes(run_copy) == expected
    assert call("verify", run_copy, "--num-batches", 1).code == 0
    untouched = files["images"][0]
    assert (run_copy / untouched).read_bytes() == before[untouched]


@pytest.mark.ray
@pytest.mark.parametrize("command", ["status", "verify", "report", "gc", "evaluate"])
def test_a_manifest_that_was_edited(command: str, run_copy: Path, refuse: Refuse) -> None:
    manifest = json.loads((run_copy / "manifest.json").read_text())
    manifest["plan"]["sampling"]["guidance_scale"] = 3.0
    (run_copy / "manifest.json").write_text(json.dumps(manifest))
    assert "does not hash to its plan_id; it was edited" in refuse(DATA, command, run_copy)


@pytest.mark.ray
def test_a_manifest_of_a_newer_version(run_copy: Path, refuse: Refuse) -> None:
    manifest = json.loads((run_copy / "manifest.json").read_text())
    (run_copy / "manifest.json").write_text(json.dumps({**manifest, "schema_version": 99}))
    assert "upgrade evalsuite" in refuse(DATA, "status", run_copy)

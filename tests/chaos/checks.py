"""What must be true of a run that was disturbed, and what is counted."""

import collections
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from harness import attempts, pixel_hashes, receipts
from safetensors.numpy import load_file
from shim import Scene


class Truth(NamedTuple):
    """The undisturbed run: SHA-256 of each sample's pixels, and its features."""

    hashes: dict[int, str]
    features: dict[str, np.ndarray]


class Counts(NamedTuple):
    """What a disturbed run cost beyond an undisturbed one."""

    computed_twice: int
    """Shards whose data file was finished by more than one attempt, each further one counted."""
    came_second: int
    """Receipts that met the receipt of another attempt."""
    repaired: int
    """Shards whose receipt stood and whose bytes did not."""
    left_files: int
    """Data files without a receipt, which `gc` removes."""
    workers_lost: int


def truth_of(run: Path) -> Truth:
    """Read the undisturbed run."""
    return Truth(pixel_hashes(run), features_of(run))


def check(run: Path, truth: Truth, num_samples: int) -> None:
    """The run holds samples 0..num_samples-1, each once, with the bytes of the undisturbed run.

    Raises:
        AssertionError: it does not.
    """
    hashes = pixel_hashes(run)
    assert list(hashes) == list(range(num_samples)), f"samples {sorted(hashes)} are there"
    wrong = [index for index, digest in hashes.items() if digest != truth.hashes[index]]
    assert not wrong, f"samples {wrong} have other pixels than in the undisturbed run"
    ours = features_of(run)
    assert ours.keys() == truth.features.keys()
    for name, array in ours.items():
        assert len(array) == num_samples, f"{len(array)} rows of {name}"
        assert array.tobytes() == truth.features[name][:num_samples].tobytes(), name
    assert attempts(run)[-1]["outcome"] == "complete"


def features_of(run: Path) -> dict[str, np.ndarray]:
    """All features of a run, in the order of their samples."""
    (extractor,) = (run / "receipts/features").iterdir()
    rows: dict[int, dict[str, np.ndarray]] = {}
    for receipt in receipts(run, f"features/{extractor.name}"):
        arrays = load_file(run / receipt["files"][0]["path"])
        for at, index in enumerate(arrays["sample_index"]):
            assert int(index) not in rows, f"features of sample {index} were committed twice"
            rows[int(index)] = {name: array[at] for name, array in arrays.items()}
    return {name: np.stack([rows[i][name] for i in sorted(rows)]) for name in rows[0]}


def count(scene: Scene, events: list[dict[str, Any]]) -> Counts:
    """What the disturbances cost."""
    finished: dict[str, set[str]] = collections.defaultdict(set)
    for event in events:
        path = event["path"]
        if event["op"] == "fsync" and path.startswith("images/") and "rule" not in event:
            finished[path[7:28]].add(path)
    second = [
        e
        for e in events
        if e["op"] == "link" and e["path"].startswith("receipts/") and e.get("result")
    ]
    run = scene.run
    stages = ["images", *(f"features/{f.name}" for f in (run / "receipts/features").iterdir())]
    named = {f["path"] for stage in stages for r in receipts(run, stage) for f in r["files"]}
    data = [p for folder in ("images", "features") for p in (run / folder).rglob("*")]
    made = attempts(run)
    return Counts(
        computed_twice=sum(len(paths) - 1 for paths in finished.values()),
        came_second=len(second),
        repaired=sum(len(a["repaired"]) for a in made),
        left_files=sum(p.is_file() and p.relative_to(run).as_posix() not in named for p in data),
        workers_lost=sum(a["workers_lost"] for a in made),
    )

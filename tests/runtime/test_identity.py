"""The same plan gives the same pixels, however the work is cut, spread, stopped and resumed."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from disturb import KilledRun, SpreadRun
from harness import (
    NUM_SAMPLES,
    PLAN,
    FinishedRun,
    HostedCluster,
    Outcome,
    attempts,
    bytes_of,
    call_main,
    finish,
    pixel_hashes,
    png_hash,
    receipts,
    start,
)

pytestmark = pytest.mark.ray


def generate(
    run: Path, cluster: HostedCluster, *options: object, num_samples: int = NUM_SAMPLES
) -> Outcome:
    """`evalsuite generate` on the cluster; it must succeed."""
    where = ("--output", run, "--address", cluster.address)
    outcome = call_main("generate", *PLAN, "--num-samples", num_samples, *where, *options)
    assert outcome.code == 0, outcome.stderr
    return outcome


class GrownRun(NamedTuple):
    """100 samples of which a grid was kept, later all of 200."""

    path: Path
    first: list[dict]
    """Receipts of the images after the first invocation."""
    first_files: dict[str, bytes]


@pytest.fixture(scope="module")
def grown_run(cluster: HostedCluster, tmp_path_factory: pytest.TempPathFactory) -> GrownRun:
    """First `--images grid` of 100 samples in shards of 25 (that is 30), then all of 200 in 70."""
    run = tmp_path_factory.mktemp("grown") / "made"
    first = ("--images", "grid", "--shard-size", 25, "--num-workers", 1)
    generate(run, cluster, *first, num_samples=100)
    before, files = receipts(run), bytes_of(run / "images")
    generate(run, cluster, "--images", "all", "--shard-size", 70, "--num-workers", 2)
    return GrownRun(run, before, files)


@pytest.fixture(scope="module")
def shared_out_run(cluster: HostedCluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shares 1/3 and 2/3 at the same time by two drivers, then 3/3; each in one shard."""
    folder = tmp_path_factory.mktemp("parts")
    run = folder / "made"
    options = ("--num-workers", 1, "--shard-size", 1000)
    where = ("--output", run, "--address", cluster.address, "--num-samples", NUM_SAMPLES)
    first = start("generate", *PLAN, *where, *options, "--part", "1/3", cwd=folder)
    generate(run, cluster, *options, "--part", "2/3")
    assert finish(first).code == 0
    generate(run, cluster, *options, "--part", "3/3")
    return run


def test_three_workers_make_what_one_makes(
    spread_run: SpreadRun, digits_run: FinishedRun, expected: dict[int, str]
) -> None:
    assert pixel_hashes(spread_run.path) == expected
    assert [a["workers"] for a in attempts(digits_run.path)] == [1]
    assert [a["workers"] for a in attempts(spread_run.path)] == [3]


def test_npz_shards_hold_the_pixels_of_parquet_shards(
    spread_run: SpreadRun, digits_run: FinishedRun
) -> None:
    files = [spread_run.path / r["files"][0]["path"] for r in receipts(spread_run.path)]
    assert {file.suffix for file in files} == {".npz"}
    arrays = [np.load(file) for file in files]
    hashes = [hashlib.sha256(i.tobytes()).hexdigest() for a in arrays for i in a["arr_0"]]
    assert hashes == list(pixel_hashes(digits_run.path).values())
    labels = np.concatenate([a["arr_1"] for a in arrays])
    assert (labels == np.arange(NUM_SAMPLES) % 10).all()


def test_a_killed_run_goes_on_where_it_was(
    killed_run: KilledRun, cluster: HostedCluster, expected: dict[int, str]
) -> None:
    before = receipts(killed_run.path)
    generate(killed_run.path, cluster, "--num-workers", 1)
    assert pixel_hashes(killed_run.path) == expected
    after = receipts(killed_run.path)
    assert [receipt for receipt in after if receipt in before] == before
    last = attempts(killed_run.path)[-1]
    assert last["images_made"] == NUM_SAMPLES - sum(r["stop"] - r["start"] for r in before)


def test_more_samples_later_are_those_of_one_go(
    grown_run: GrownRun, expected: dict[int, str]
) -> None:
    assert pixel_hashes(grown_run.path) == expected
    made = receipts(grown_run.path)
    assert made[: len(grown_run.first)] == grown_run.first
    assert grown_run.first_files.items() <= bytes_of(grown_run.path / "images").items()


def test_pixels_that_were_left_out_are_made_again_the_same(
    grown_run: GrownRun, digits_run: FinishedRun, tmp_path: Path
) -> None:
    assert {r["kept"] for r in grown_run.first} == {"grid"}
    outcome = call_main(
        "export", grown_run.path, "--format", "adm-npz", "--output", tmp_path / "grown.npz"
    )
    assert outcome.code == 0, outcome.stderr
    outcome = call_main(
        "export", digits_run.path, "--format", "adm-npz", "--output", tmp_path / "whole.npz"
    )
    assert outcome.code == 0, outcome.stderr
    assert (tmp_path / "grown.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_a_grown_run_opens_with_all_its_images(grown_run: GrownRun) -> None:
    import datasets

    opened = datasets.load_dataset(str(grown_run.path), split="train")
    by_index = {row["sample_index"]: row["image"] for row in opened}
    assert len(opened) == len(by_index) == NUM_SAMPLES
    assert all(image is not None and image.size == (16, 16) for image in by_index.values())


def test_shares_make_one_run(shared_out_run: Path, expected: dict[int, str]) -> None:
    assert pixel_hashes(shared_out_run) == expected
    assert [a["resolved"]["part"] for a in attempts(shared_out_run)].count([3, 3]) == 1
    assert sum(a["images_made"] for a in attempts(shared_out_run)) == NUM_SAMPLES


def test_shards_had_different_sizes(
    spread_run: SpreadRun, grown_run: GrownRun, shared_out_run: Path, digits_run: FinishedRun
) -> None:
    """The comparisons above say nothing about shard sizes unless sizes really differed."""
    runs = (digits_run.path, spread_run.path, grown_run.path, shared_out_run)
    sizes = [{r["stop"] - r["start"] for r in receipts(run)} for run in runs]
    assert sizes == [{20}, {30, 20}, {30, 20, 70}, {60, 70}]


@pytest.mark.parametrize("index", [0, 57, 199])
def test_sample_makes_one_image_again(
    index: int, call: Callable[..., Outcome], tmp_path: Path, expected: dict[int, str]
) -> None:
    outcome = call("sample", *PLAN, "--index", index, "--output", "one.png")
    assert outcome.code == 0, outcome.stderr
    assert png_hash((tmp_path / "one.png").read_bytes()) == expected[index]
    assert f"pixel_sha256 {expected[index]}" in outcome.stdout
    assert f"seed {index}  label {index % 10}" in outcome.stdout


def test_replicates_share_no_sample(
    call: Callable[..., Outcome], tmp_path: Path, expected: dict[int, str]
) -> None:
    made = set()
    for replicate, index in [(1, 0), (1, 10), (2, 0)]:
        options = ("--replicate", replicate, "--index", index, "--output", "one.png")
        outcome = call("sample", *PLAN, *options)
        assert outcome.code == 0, outcome.stderr
        assert f"seed {replicate * 10**7 + index} " in outcome.stdout
        made.add(png_hash((tmp_path / "one.png").read_bytes()))
    assert len(made) == 3
    assert not made & set(expected.values())


def test_a_first_seed_is_where_sample_0_begins(
    call: Callable[..., Outcome], tmp_path: Path, expected: dict[int, str]
) -> None:
    """Sample 0 of first seed 30 is sample 30 of first seed 0: same seed, same label, same slot."""
    outcome = call("sample", *PLAN, "--first-seed", 30, "--index", 0, "--output", "one.png")
    assert outcome.code == 0, outcome.stderr
    assert png_hash((tmp_path / "one.png").read_bytes()) == expected[30]

"""The same plan gives the same pixels, however the work is cut, spread, stopped and resumed.

Each test runs for a model of ours and, in the long suite (`make identity`), for a stranger's class
with a sampler that we do not have; the last test is the short version of that.
"""

import hashlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from disturb import num_receipts
from harness import (
    NUM_SAMPLES,
    PLAN,
    REPOSITORY,
    HostedCluster,
    Outcome,
    attempts,
    bytes_of,
    call_main,
    descendants,
    finish,
    pixel_hashes,
    png_hash,
    receipts,
    start,
    wait_for,
)

from evalsuite.pipeline.generation import BatchSampler
from evalsuite.pipeline.numerics import resolve_device
from evalsuite.pipeline.plan import PlanOptions, resolve_plan

STRANGER = (
    "--model",
    REPOSITORY / "tests" / "models" / "stranger" / "edm-toy.yaml",
    "--trust-remote-code",
    "--num-steps",
    3,
    "--batch-size",
    10,
)
Plan = tuple[object, ...]

pytestmark = pytest.mark.ray


def generate(
    plan: Plan,
    run: Path,
    cluster: HostedCluster,
    *options: object,
    num_samples: int = NUM_SAMPLES,
) -> Outcome:
    """`evalsuite generate` on the cluster; it must succeed."""
    where = ("--output", run, "--address", cluster.address)
    outcome = call_main("generate", *plan, "--num-samples", num_samples, *where, *options)
    assert outcome.code == 0, outcome.stderr
    return outcome


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(PLAN, id="pixnerd-digits"),
        pytest.param(STRANGER, id="python", marks=pytest.mark.slow),
    ],
)
def plan(request: pytest.FixtureRequest) -> Plan:
    """Options of a plan of 20 batches."""
    return request.param


@pytest.fixture(scope="module")
def whole_run(
    plan: Plan,
    request: pytest.FixtureRequest,
    cluster: HostedCluster,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """One worker, shards of 20; of ours it is the run that other tests look at as well."""
    if plan is PLAN:
        return request.getfixturevalue("digits_run").path
    run = tmp_path_factory.mktemp("whole") / "made"
    generate(plan, run, cluster, "--shard-size", 20, "--num-workers", 1)
    return run


@pytest.fixture(scope="module")
def expected(whole_run: Path) -> dict[int, str]:
    """The pixel hashes of the whole run: 200 samples, all different."""
    hashes = pixel_hashes(whole_run)
    assert list(hashes) == list(range(NUM_SAMPLES))
    assert len(set(hashes.values())) == NUM_SAMPLES
    return hashes


@pytest.fixture(scope="module")
def three_workers_run(
    plan: Plan,
    request: pytest.FixtureRequest,
    three_nodes: HostedCluster,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Three workers on three nodes, NPZ shards of 30."""
    if plan is PLAN:
        return request.getfixturevalue("spread_run").path
    run = tmp_path_factory.mktemp("three") / "made"
    options = ("--shard-size", 30, "--shard-format", "npz", "--num-workers", 3)
    generate(plan, run, three_nodes, *options)
    return run


@pytest.fixture(scope="module")
def stopped_run(
    plan: Plan, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run whose driver and all its processes were killed in the middle."""
    if plan is PLAN:
        return request.getfixturevalue("killed_run").path
    folder = tmp_path_factory.mktemp("stopped")
    options = ("--num-workers", 2, "--shard-size", 10, "--output", "made")
    driver = start("generate", *plan, "--num-samples", NUM_SAMPLES, *options, cwd=folder)
    wait_for(lambda: num_receipts(folder / "made") >= 3)
    below = descendants(driver.pid)
    os.killpg(driver.pid, signal.SIGKILL)
    assert finish(driver).code == -signal.SIGKILL
    wait_for(lambda: not any(process.alive for process in below))
    assert num_receipts(folder / "made") < 20, "the run was over before it was killed"
    return folder / "made"


class GrownRun(NamedTuple):
    """100 samples of which a grid was kept, later all of 200."""

    path: Path
    first: list[dict]
    """Receipts of the images after the first invocation."""
    first_files: dict[str, bytes]


@pytest.fixture(scope="module")
def grown_run(
    plan: Plan, cluster: HostedCluster, tmp_path_factory: pytest.TempPathFactory
) -> GrownRun:
    """First `--images grid` of 100 samples in shards of 25 (that is 30), then all of 200 in 70."""
    run = tmp_path_factory.mktemp("grown") / "made"
    first = ("--images", "grid", "--shard-size", 25, "--num-workers", 1)
    generate(plan, run, cluster, *first, num_samples=100)
    before, files = receipts(run), bytes_of(run / "images")
    generate(plan, run, cluster, "--images", "all", "--shard-size", 70, "--num-workers", 1)
    return GrownRun(run, before, files)


@pytest.fixture(scope="module")
def shared_out_run(
    plan: Plan, cluster: HostedCluster, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Shares 2/2 and 1/2, each in one shard, by two drivers.

    Two at the same time are in tests/runtime/test_failures.py.
    """
    run = tmp_path_factory.mktemp("parts") / "made"
    for part in ("2/2", "1/2"):
        generate(plan, run, cluster, "--num-workers", 1, "--shard-size", 1000, "--part", part)
    return run


def test_three_workers_make_what_one_makes(
    three_workers_run: Path, whole_run: Path, expected: dict[int, str]
) -> None:
    assert pixel_hashes(three_workers_run) == expected
    assert [a["workers"] for a in attempts(whole_run)] == [1]
    assert [a["workers"] for a in attempts(three_workers_run)] == [3]


def test_npz_shards_hold_the_pixels_of_parquet_shards(
    three_workers_run: Path, whole_run: Path
) -> None:
    files = [three_workers_run / r["files"][0]["path"] for r in receipts(three_workers_run)]
    assert {file.suffix for file in files} == {".npz"}
    arrays = [np.load(file) for file in files]
    hashes = [hashlib.sha256(i.tobytes()).hexdigest() for a in arrays for i in a["arr_0"]]
    assert hashes == list(pixel_hashes(whole_run).values())
    labels = np.concatenate([a["arr_1"] for a in arrays])
    assert (labels == np.arange(NUM_SAMPLES) % 10).all()


def test_a_killed_run_goes_on_where_it_was(
    plan: Plan, stopped_run: Path, cluster: HostedCluster, expected: dict[int, str]
) -> None:
    before = receipts(stopped_run)
    generate(plan, stopped_run, cluster, "--num-workers", 1)
    assert pixel_hashes(stopped_run) == expected
    after = receipts(stopped_run)
    assert [receipt for receipt in after if receipt in before] == before
    last = attempts(stopped_run)[-1]
    assert last["images_made"] == NUM_SAMPLES - sum(r["stop"] - r["start"] for r in before)


def test_more_samples_later_are_those_of_one_go(
    grown_run: GrownRun, expected: dict[int, str]
) -> None:
    assert pixel_hashes(grown_run.path) == expected
    made = receipts(grown_run.path)
    assert made[: len(grown_run.first)] == grown_run.first
    assert grown_run.first_files.items() <= bytes_of(grown_run.path / "images").items()


def test_pixels_that_were_left_out_are_made_again_the_same(
    grown_run: GrownRun, whole_run: Path, tmp_path: Path
) -> None:
    assert {r["kept"] for r in grown_run.first} == {"grid"}
    outcome = call_main(
        "export", grown_run.path, "--format", "adm-npz", "--output", tmp_path / "grown.npz"
    )
    assert outcome.code == 0, outcome.stderr
    outcome = call_main(
        "export", whole_run, "--format", "adm-npz", "--output", tmp_path / "whole.npz"
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
    assert [a["resolved"]["part"] for a in attempts(shared_out_run)].count([2, 2]) == 1
    assert sum(a["images_made"] for a in attempts(shared_out_run)) == NUM_SAMPLES


def test_shards_had_different_sizes(
    three_workers_run: Path, grown_run: GrownRun, shared_out_run: Path, whole_run: Path
) -> None:
    """The comparisons above say nothing about shard sizes unless sizes really differed."""
    runs = (whole_run, three_workers_run, grown_run.path, shared_out_run)
    sizes = [{r["stop"] - r["start"] for r in receipts(run)} for run in runs]
    assert sizes == [{20}, {30, 20}, {30, 20, 70}, {100}]


@pytest.mark.parametrize("index", [0, 57, 199])
def test_sample_makes_one_image_again(
    index: int, plan: Plan, call: Callable[..., Outcome], tmp_path: Path, expected: dict[int, str]
) -> None:
    outcome = call("sample", *plan, "--index", index, "--output", "one.png")
    assert outcome.code == 0, outcome.stderr
    assert png_hash((tmp_path / "one.png").read_bytes()) == expected[index]
    assert f"pixel_sha256 {expected[index]}" in outcome.stdout
    assert f"seed {index}  label {index % 10}" in outcome.stdout


def test_replicates_share_no_sample(
    plan: Plan, call: Callable[..., Outcome], tmp_path: Path, expected: dict[int, str]
) -> None:
    made = set()
    for replicate, index in [(1, 0), (1, 10), (2, 0)]:
        options = ("--replicate", replicate, "--index", index, "--output", "one.png")
        outcome = call("sample", *plan, *options)
        assert outcome.code == 0, outcome.stderr
        assert f"seed {replicate * 10**7 + index} " in outcome.stdout
        made.add(png_hash((tmp_path / "one.png").read_bytes()))
    assert len(made) == 3
    assert not made & set(expected.values())


def test_a_first_seed_is_where_sample_0_begins(
    plan: Plan, call: Callable[..., Outcome], tmp_path: Path, expected: dict[int, str]
) -> None:
    """Sample 0 of first seed 30 is sample 30 of first seed 0: same seed, same label, same slot."""
    outcome = call("sample", *plan, "--first-seed", 30, "--index", 0, "--output", "one.png")
    assert outcome.code == 0, outcome.stderr
    assert png_hash((tmp_path / "one.png").read_bytes()) == expected[30]


def test_a_strangers_class_makes_the_same_here_and_by_a_worker(
    cluster: HostedCluster, tmp_path: Path
) -> None:
    """Its stochastic sampler draws from each sample's own generator, whoever computes it."""
    run = tmp_path / "made"
    generate(STRANGER, run, cluster, "--num-workers", 1, "--shard-size", 20, num_samples=40)
    sampling = {"num_steps": 3}
    options = PlanOptions(str(STRANGER[1]), batch_size=10, sampling=sampling, trust_code=True)
    resolved = resolve_plan(options)
    here = BatchSampler(resolved.plan, resolved.materials, resolve_device("cpu"))
    hashes = [digest for batch in range(4) for digest in here.pixel_hashes(batch)]
    assert list(pixel_hashes(run).values()) == hashes
    assert len(set(hashes)) == 40

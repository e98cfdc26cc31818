"""`evalsuite.Scorer` in training jobs of 1, 2 and 4 processes: the numbers of a run, to the bit."""

import json
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import yaml
from harness import NUM_SAMPLES, REPOSITORY, FinishedRun, environment
from rank_processes import Raised, on_ranks
from run_maker import BATCH, hashes_of, make_run, measure, resolved
from tensorflow_kit import NARROWEST, graph_file
from torch import Tensor

import evalsuite
from evalsuite.artifacts.receipts import digest_of_pixels
from evalsuite.artifacts.records import Record
from evalsuite.artifacts.references import open_reference
from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.artifacts.samples import open_samples
from evalsuite.artifacts.storage import file_sha256
from evalsuite.config import ExtractorSpec, ProtocolSpec, load_spec
from evalsuite.errors import DataError, EvalsuiteError, IncompleteError, UsageError, WorkerError
from evalsuite.models.building import load_model
from evalsuite.pipeline.evaluation import score_run, score_samples
from evalsuite.pipeline.export import export_adm_npz, export_png
from evalsuite.pipeline.measure import Measure
from evalsuite.pipeline.sample_batches import SampleBatch
from evalsuite.pipeline.scorer import Scores
from evalsuite.seeding import labels_of, seeds_of

COUNTS = (57, 20)
"""Samples: no multiple of a batch; fewer batches than four ranks."""
SETTINGS: dict[str, Any] = {"num_classes": 10, "batch_size": BATCH, "device": "cpu"}


BOUNDS: dict[str, dict[str, float]] = {
    "fid": {"rel": 5e-5},
    "sfid": {"rel": 5e-5},
    "inception_score": {"rel": 5e-6},
    "precision": {"abs": 3 / 30},
    "recall": {"abs": 3 / 40},
}
"""Between the two backends."""


class Sampler:
    """The digits model as a training job has it: a function of noise and labels."""

    def __init__(self, num_steps: int = 2) -> None:
        found = resolved(sampling={"num_steps": num_steps})
        self._plan = found.plan
        self._model = load_model(found.plan, found.materials.weights, torch.device("cpu"))

    def __call__(self, batch: SampleBatch) -> Tensor:
        return self.images(batch.noise, batch.labels.tolist(), batch.generators)

    @torch.inference_mode()
    def images(self, noise: Tensor, labels: list[int], generators: list[Any]) -> Tensor:
        return self._model.sample(noise, labels, generators, self._plan.sampling)


def new_scorer(num_samples: int = 20, **changes: Any) -> "evalsuite.Scorer":
    arguments = {"reference": "digits-16-train", "num_samples": num_samples}
    return evalsuite.Scorer(**arguments | SETTINGS | changes)


NUMBERS = ("value", "standard_error", "extrapolated")


def comparable(record: Record) -> dict[str, Any]:
    """All that must be equal whoever made the samples."""
    left_out = {"samples", "provenance", "cost", "created_at", "record_sha256"}
    return record.model_dump(mode="json", exclude=left_out)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """60 samples of `evalsuite run`'s worker, in shards of 20."""
    return make_run(tmp_path_factory.mktemp("scorer") / "run", 60, 20)


@pytest.fixture(scope="module")
def expected(run: RunDirectory) -> dict[int, list[Record]]:
    return {count: score_run(run, measure(), count) for count in COUNTS}


def several_evaluations(rank: int) -> list[tuple[Scores, int]]:
    """One scorer after another; the second is used twice, as after two epochs."""
    sampler, found = Sampler(), []
    for count, repeats in zip(COUNTS, (1, 2), strict=True):
        scorer = new_scorer(count)
        for _ in range(repeats):
            taken = 0
            for batch in scorer.batches():
                scorer.add(batch, sampler(batch))
                taken += 1
            scores = scorer.result()
            assert scorer.result() is scores
        found.append((scores, taken))
    return found


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_any_number_of_ranks_gives_the_records_of_the_run(
    ranks: int, tmp_path: Path, run: RunDirectory, expected: dict[int, list[Record]]
) -> None:
    """Values, errors, notes, protocols and influence, and the very pixels; on every rank."""
    by_rank = on_ranks(ranks, several_evaluations, tmp_path)
    assert not any(isinstance(found, Raised) for found in by_rank), by_rank
    for number, count in enumerate(COUNTS):
        batches = [found[number][1] for found in by_rank]
        assert sum(batches) == -(-count // BATCH)
        assert max(batches) - min(batches) <= 1
        for scores in (found[number][0] for found in by_rank):
            theirs = expected[count]
            assert [comparable(r) for r in scores.records] == [comparable(r) for r in theirs]
            assert scores.records == by_rank[0][number][0].records
            for record in theirs:
                path = run.root / record.influence_path
                assert path.is_file() == (record.metric in scores.influence)
                if path.is_file():
                    np.testing.assert_array_equal(np.load(path), scores.influence[record.metric])
            about = scores.records[0].samples
            assert about["pixels_digest"] == digest_of_pixels(hashes_of(run, count))
            assert about["mixed_numerics"] is False
    if ranks == 4:
        assert [found[1][1] for found in by_rank] == [1, 1, 0, 0]


@pytest.mark.ray
def test_the_numbers_of_the_command_line(digits_run: FinishedRun) -> None:
    """What `evalsuite run` printed for 200 samples under Ray.

    Its process may have another number of threads, which may move the last bit of a metric.
    """
    torch.set_num_threads(1)
    scorer, sampler = new_scorer(NUM_SAMPLES), Sampler(num_steps=4)
    for batch in scorer.batches():
        scorer.add(batch, sampler(batch))
    theirs = [Record.model_validate(record) for record in digits_run.json["records"]]
    ours = scorer.result().records
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        for number in NUMBERS:
            expected = getattr(other, number)
            near = expected if expected is None else pytest.approx(expected, rel=1e-9)
            assert getattr(one, number) == near
        same = {number: getattr(one, number) for number in NUMBERS}
        assert comparable(one) == comparable(other.model_copy(update=same))


def test_values_and_errors_for_a_logger(expected: dict[int, list[Record]]) -> None:
    """A key for each number that there is; an undefined value is NaN, not left out."""
    records = tuple(expected[57])
    log = Scores(records, {}).log("val/")
    for record in records:
        assert log[f"val/{record.metric}"] == record.value
        assert log.get(f"val/{record.metric}_se") == record.standard_error
    undefined = records[0].model_copy(update={"value": None})
    assert np.isnan(Scores((undefined,), {}).log()["fid"])


def test_exports_of_the_same_samples_score_the_same(run: RunDirectory, tmp_path: Path) -> None:
    """An NPZ and PNG files of the run, and the same pixels handed over as uint8 in both orders."""
    export_adm_npz(run, 60, tmp_path / "samples.npz")
    export_png(run, 60, tmp_path / "png")
    images = np.load(tmp_path / "samples.npz")["arr_0"]
    scorer = new_scorer(60)
    for number, batch in enumerate(scorer.batches()):
        pixels = torch.from_numpy(images[batch.sample_index.start : batch.sample_index.stop])
        scorer.add(batch, pixels if number % 2 else pixels.permute(0, 3, 1, 2))
    fused = scorer.result().records
    for path in (tmp_path / "samples.npz", tmp_path / "png"):
        outside = score_samples(open_samples(path), [measure()])
        assert [one.record.value for one in outside] == [record.value for record in fused]
    assert {record.protocol.uint8_rule for record in fused} == {None}


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A synthetic Inception in its graph, as an extractor, and a reference of real digits."""
    monkeypatch.setenv("EVALSUITE_CACHE", str(tmp_path / "cache"))
    graph = graph_file(NARROWEST)
    spec = load_spec(ExtractorSpec, "inception-2015-12-05").model_dump(mode="json")
    weights = {"file": str(graph), "sha256": file_sha256(graph)}
    changes = {"name": "kit", "short": "kit-", "weights": weights, "card": None, "batch_size": 8}
    path = tmp_path / "kit.yaml"
    path.write_text(yaml.safe_dump({**spec, **changes, "pool_dim": 2048 // NARROWEST}))
    real = open_reference("digits-16-heldout").images
    assert real
    np.savez(tmp_path / "real.npz", next(iter(real.read(0, 40))))
    return path, tmp_path / "real.npz"


@pytest.mark.tf
def test_the_graph_of_adm_on_the_exports_agrees(
    run: RunDirectory, kit: tuple[Path, Path], tmp_path: Path
) -> None:
    """Fused features, NPZ and PNG to the bit; ADM's very graph on the NPZ within the bounds."""
    extractor, reference = kit
    export_adm_npz(run, 30, tmp_path / "samples.npz")
    export_png(run, 30, tmp_path / "png")
    images = np.load(tmp_path / "samples.npz")["arr_0"]
    scorer = evalsuite.Scorer(
        reference, extractor=str(extractor), num_samples=30, protocol="adm", **SETTINGS
    )
    for batch in scorer.batches():
        scorer.add(batch, images[batch.sample_index.start : batch.sample_index.stop])
    fused = {record.metric: record.value for record in scorer.result().records}
    spec, protocol = load_spec(ExtractorSpec, str(extractor)), load_spec(ProtocolSpec, "adm")
    ours = Measure(spec, open_reference(str(reference)), list(fused), torch.device("cpu"), protocol)
    for name in ("samples.npz", "png"):
        outside = score_samples(open_samples(tmp_path / name), [ours])
        assert {one.record.metric: one.record.value for one in outside} == fused
    graph = ours._replace(backend="tensorflow")
    for one in score_samples(open_samples(tmp_path / "samples.npz"), [graph]):
        bound = BOUNDS[one.record.metric]
        assert one.record.value == pytest.approx(fused[one.record.metric], **bound)


def one_rank_misses(rank: int) -> list[Any]:
    """Both ranks say what is missing; once it is there, both have the result."""
    scorer, found = new_scorer(35), []
    batches = list(scorer.batches())
    zeros = torch.zeros(BATCH, 3, 16, 16)
    for batch in batches if rank == 0 else batches[:1]:
        scorer.add(batch, zeros)
    try:
        scorer.result()
    except IncompleteError as error:
        found.append(str(error))
    if rank == 1:
        scorer.add(batches[1], zeros)
    found.append(scorer.result().records[0].value)
    return found


def test_missing_samples_are_named_on_every_rank(tmp_path: Path) -> None:
    first, second = on_ranks(2, one_rank_misses, tmp_path)
    assert first == second
    assert "samples 30..34 of rank 1 are missing" in first[0]
    assert first[1] is not None


def in_a_group_of_two(rank: int) -> float | None:
    """Ranks 1 and 2 of three, while rank 0 does something else."""
    group = dist.new_group([1, 2])
    if rank == 0:
        with pytest.raises(UsageError, match="not in the process_group"):
            new_scorer(process_group=group)
        return None
    return value_of_plain_images(new_scorer(process_group=group))


def value_of_plain_images(scorer: "evalsuite.Scorer") -> float | None:
    for batch in scorer.batches():
        scorer.add(batch, batch.noise.clamp(-1, 1))
    return scorer.result().records[0].value


def test_ranks_may_be_some_of_a_job(tmp_path: Path) -> None:
    alone = value_of_plain_images(new_scorer())
    assert on_ranks(3, in_a_group_of_two, tmp_path) == [None, alone, alone]


def nobody_can_start(rank: int, trouble: str) -> None:
    if trouble == "reference":
        evalsuite.Scorer("digits-16-trian", **SETTINGS)
    elif rank == 1:  # its labels are not there, as on a node of its own
        evalsuite.Scorer("digits-16-train", **SETTINGS | {"labels": "file:nowhere.txt"})
    else:
        new_scorer()


@pytest.mark.parametrize(
    ("trouble", "kind", "text"),
    [("reference", "UsageError", "did you mean"), ("labels", "DataError", "label file nowhere")],
)
def test_what_one_rank_cannot_start_with_ends_all(
    tmp_path: Path, trouble: str, kind: str, text: str
) -> None:
    """Whether it is the first one, which reads the reference, or another."""
    found = on_ranks(2, nobody_can_start, tmp_path, trouble)
    assert [raised.kind for raised in found] == [kind, kind]
    assert all(text in raised.text for raised in found)


def one_rank_fails(rank: int) -> float:
    """Rank 1 makes NaN and ends; how long the other one waits for it."""
    scorer = new_scorer(20, timeout_s=60)
    for batch in scorer.batches():
        scorer.add(batch, torch.full((BATCH, 3, 16, 16), float("nan") if rank else 0.0))
    began = time.monotonic()
    with pytest.raises(WorkerError, match="waited in vain for other ranks"):
        scorer.result()
    return time.monotonic() - began


def one_rank_is_late(rank: int) -> None:
    scorer = new_scorer(20, timeout_s=2)
    for batch in scorer.batches():
        scorer.add(batch, torch.zeros(BATCH, 3, 16, 16))
    if rank == 1:
        time.sleep(3)
    scorer.result()


def test_a_rank_that_fails_or_is_late_does_not_hang_the_others(tmp_path: Path) -> None:
    waited, failed = on_ranks(2, one_rank_fails, tmp_path)
    assert failed.kind == "DataError"
    assert "sample 10: NaN or infinite pixels" in failed.text
    assert isinstance(waited, float)
    assert waited < 30
    punctual, late = on_ranks(2, one_rank_is_late, tmp_path)
    assert punctual.kind == late.kind == "WorkerError"
    assert "timeout_s, 2 s" in punctual.text
    assert "Ranks 1 failed to pass" in punctual.text


def state_of_the_process() -> dict[str, Any]:
    """What a training job relies on."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": str(np.random.get_state()),  # noqa: NPY002
        "python": random.getstate(),
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "grad": torch.is_grad_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "cudnn": (cudnn.benchmark, cudnn.deterministic, cudnn.enabled),
        "precision": (matmul.fp32_precision, cudnn.conv.fp32_precision),
        "all_precisions": (
            torch.backends.fp32_precision,
            torch.backends.mkldnn.matmul.fp32_precision,
        ),
    }


def assert_still(before: dict[str, Any]) -> None:
    now = state_of_the_process()
    changed = {name: (before[name], now[name]) for name in before if before[name] != now[name]}
    assert not changed, str(changed)[:300]


def in_a_peculiar_process(rank: int, interface: str) -> list[float | None]:
    """Evaluate under settings that would change bits, and check that they are still there."""
    sampler = Sampler()
    torch.set_num_threads(2)
    if interface == "old":
        torch.set_float32_matmul_precision("medium")
        torch.backends.cudnn.allow_tf32 = True
    elif interface == "new":
        torch.backends.fp32_precision = "tf32"
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(7)
    before = state_of_the_process()
    scorer = new_scorer(20)
    assert_still(before)
    for batch in scorer.batches():
        torch.set_num_threads(1)
        images = sampler(batch)
        torch.set_num_threads(2)
        torch.set_default_dtype(torch.float64)
        try:
            with torch.device("meta"), torch.autocast("cpu", dtype=torch.bfloat16):
                inside = state_of_the_process()
                scorer.add(batch, images.clone().requires_grad_())
                assert_still(inside)
        finally:
            torch.set_default_dtype(torch.float32)
        assert not batch.noise.is_inference()
    assert_still(before)
    scores = scorer.result()
    with pytest.raises(UsageError):
        scorer.add(batch, images)
    assert_still(before)
    return [record.value for record in scores.records]


@pytest.mark.parametrize("interface", ["default", "old", "new"])
def test_the_process_is_left_as_it_was_found(
    tmp_path: Path, interface: str, expected: dict[int, list[Record]]
) -> None:
    """And what it is like has no influence on the numbers."""
    (values,) = on_ranks(0, in_a_peculiar_process, tmp_path, interface)
    assert values == [record.value for record in expected[20]]


def on_a_gpu(rank: int) -> tuple[float | None, float | None]:
    """Values on the GPU under TensorFloat-32, twice; its generator and the flags stay."""
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    torch.cuda.manual_seed(3)
    before = state_of_the_process() | {"cuda": torch.cuda.get_rng_state().tolist()}
    scorer = new_scorer(device=None)
    values = []
    for _ in range(2):
        for batch in scorer.batches():
            scorer.add(batch, batch.noise.clamp(-1, 1).cuda())
        values.append(scorer.result().records[0].value)
    now = state_of_the_process() | {"cuda": torch.cuda.get_rng_state().tolist()}
    assert now == before
    return values[0], values[1]


@pytest.mark.gpu
def test_two_ranks_of_nccl_on_a_gpu(tmp_path: Path) -> None:
    """Features are exchanged beside NCCL, which would refuse two ranks on one GPU."""
    found = on_ranks(2, on_a_gpu, tmp_path, backend="nccl")
    assert not any(isinstance(one, Raised) for one in found), found
    assert len({value for one in found for value in one}) == 1
    assert found[0][0] == pytest.approx(value_of_plain_images(new_scorer()), rel=1e-4)


def test_images_that_cannot_be_taken() -> None:
    """One line each that says what was given and what is expected; nothing of them is kept."""
    scorer = new_scorer(20, metrics=["fid"])
    first, second = scorer.batches()
    good = torch.zeros(BATCH, 3, 16, 16)
    nan = good.clone()
    nan[7, 1, 2, 3] = float("inf")
    for images, kind, text in (
        (good[:9], UsageError, r"shape \[9, 3, 16, 16\], expected \[10, 3, 16, 16\]$"),
        (good.permute(0, 2, 3, 1), UsageError, r"shape \[10, 16, 16, 3\], expected \[10, 3, 16"),
        (good[:, :1].to(torch.uint8), UsageError, r"expected .* or \[10, 16, 16, 3\]$"),
        (good.bfloat16(), UsageError, "torch.bfloat16; give float32"),
        (good.long(), UsageError, "torch.int64; give float32"),
        (nan, DataError, "sample 7: NaN or infinite"),
    ):
        with pytest.raises(kind, match=text):
            scorer.add(first, images)
    with pytest.raises(UsageError, match="the batch of sample 10 is not next"):
        scorer.add(second, good)
    scorer.add(first, good)
    with pytest.raises(UsageError, match="the batch of sample 0 is not next"):
        scorer.add(first, good)
    with pytest.raises(IncompleteError, match=r"samples 10\.\.19 of rank 0"):
        scorer.result()
    scorer.add(second, good)
    assert len(scorer.result().records) == 1


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"metrics": ["fdi"]}, "did you mean 'fid'"),
        ({"uint8_rule": "half_upp"}, "did you mean 'half_up'"),
        ({"num_samples": 0}, "num_samples must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"first_seed": 2**32 - 20}, r"not below 2\^32"),
        ({"labels": "blocks"}, "did you mean 'blocked'"),
        ({"size": (32, 32)}, "takes .16, 16. only"),
        ({"extractor": "digits-convent"}, "did you mean 'digits-convnet'"),
    ],
)
def test_arguments_that_cannot_be(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        new_scorer(**{"num_samples": 30} | changes)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"metrics": [" "]}, "`metrics` names no metric"),
        ({"metrics": ["fid"], "reference": None}, "fid needs a `reference`"),
        ({"reference": "adm-imagenet-64"}, "give the path of .* with reference=PATH"),
        ({"extractor_weights": "none.pth"}, "`extractor_weights` none.pth does not exist"),
    ],
)
def test_errors_name_arguments_and_not_options(
    changes: dict[str, Any], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVALSUITE_CACHE", str(tmp_path))
    with pytest.raises(EvalsuiteError, match=text) as caught:
        new_scorer(**{"num_samples": 30, "extractor": "digits-convnet"} | changes)
    assert "--" not in str(caught.value)


def test_a_reference_of_another_resolution_is_refused_as_by_evaluate(
    kit: tuple[Path, Path],
) -> None:
    extractor, reference = kit
    with pytest.raises(DataError, match=r"is of 16x16 images, so .* another `reference`$"):
        evalsuite.Scorer(
            reference, extractor=str(extractor), num_samples=30, size=(32, 32), **SETTINGS
        )


def test_labels_and_seeds_are_those_of_the_command_line() -> None:
    """Random ones as well, which are no strata; a replicate has other noise."""
    batches = list(new_scorer(20, labels="random:3", first_seed=10**7).batches())
    plan = resolved(labels="random:3", replicate=1).plan
    for batch in batches:
        start, stop = batch.sample_index.start, batch.sample_index.stop
        assert batch.labels.tolist() == labels_of(plan, start, stop)
        assert batch.seeds == seeds_of(plan, start, stop)
        generator = torch.Generator().manual_seed(batch.seeds[4])
        assert torch.equal(batch.noise[4], torch.randn(3, 16, 16, generator=generator))


def test_the_package_stays_light() -> None:
    """`import evalsuite` loads no torch; the scorer loads no Ray."""
    code = (
        "import sys, evalsuite; light = 'torch' not in sys.modules; evalsuite.Scorer;"
        "sys.exit(0 if light and not {'ray', 'click', 'tensorflow'} & set(sys.modules) else 1)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=environment(private=True))
    with pytest.raises(AttributeError, match="no attribute 'Scorers'"):
        _ = evalsuite.Scorers


PREAMBLE = """
import json, sys
import torch
import torch.distributed as dist
from pathlib import Path
from test_scorer import Sampler

torch.set_num_threads(1)
dist.init_process_group("gloo")
device, steps, digits = torch.device("cpu"), 5000, Sampler()

def train_step(step):
    return None

def sample(noise, labels):
    generators = [torch.Generator() for _ in labels]
    return digits.images(noise, labels.tolist(), generators)
"""
EPILOGUE = """
Path(sys.argv[1], f"rank{dist.get_rank()}.json").write_text(json.dumps(log))
dist.destroy_process_group()
"""


def test_the_example_of_the_guide_runs_under_torchrun(
    tmp_path: Path, expected: dict[int, list[Record]]
) -> None:
    """As it stands there, in at most 15 lines, on two processes."""
    guide = (REPOSITORY / "docs" / "in-training.md").read_text()
    example = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)[0]
    assert len([line for line in example.splitlines() if line.strip()]) <= 15
    small = example.replace("num_samples=10_000", "num_samples=57, batch_size=10")
    assert small != example
    (tmp_path / "train.py").write_text(PREAMBLE + small + EPILOGUE)
    env = environment(private=True)
    env["PYTHONPATH"] += f":{Path(__file__).parent}:{Path(__file__).parents[1]}"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, str(tmp_path / "train.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        env=env,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    logs = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert logs[0] == logs[1] == Scores(tuple(expected[57]), {}).log("eval/")
    assert done.stdout.count("eval/fid") == 1

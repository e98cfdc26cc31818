"""A run of a text model through the real command line: what it leaves, shows and does once."""

import hashlib
import html
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
from auditing import Audit, audited
from harness import HostedCluster, Outcome, attempts, call_main, pixel_hashes, png_hash, run_cli
from tiny_text import LONG, NEGATIVE, PROMPTS, TinyText, save_lightning, tiny_text

pytestmark = pytest.mark.ray

NUM_SAMPLES = 14
WRONG = 3
"""Exit code of weights that cannot be used."""


class TextRun(NamedTuple):
    """A finished run of a small text model, with what its processes opened."""

    path: Path
    model: TinyText
    outcome: Outcome
    audit: Audit

    @property
    def rerun(self) -> tuple[object, ...]:
        """What `verify` has to be given: files are known by their hashes alone."""
        return ("--weights", self.model.weights, "--text-encoder", self.model.encoder)


@pytest.fixture(scope="module")
def text_run(tmp_path_factory: pytest.TempPathFactory) -> TextRun:
    """14 samples in batches of 4 by two workers of a private Ray. Not to be changed."""
    folder = tmp_path_factory.mktemp("text")
    model = tiny_text(folder)
    audit = audited(folder / "audit")
    work = ("--num-samples", NUM_SAMPLES, "--num-workers", 2, "--shard-size", 4)
    outcome = run_cli(
        *("run", *model.options, "--negative-prompt", NEGATIVE, "--images", "all", *work),
        *("--output", "made", "--json", "out.json"),
        cwd=folder,
        EVALSUITE_CACHE=str(folder / "cache"),
        **audit.environment,
    )
    assert outcome.code == 0, outcome.stderr
    return TextRun(folder / "made", model, outcome, audit)


@pytest.fixture
def run_copy(text_run: TextRun, tmp_path: Path) -> Path:
    """A copy of the run, to be extended."""
    return Path(shutil.copytree(text_run.path, tmp_path / "made"))


def plan_of(run: TextRun) -> tuple[object, ...]:
    return (*run.model.options, "--negative-prompt", NEGATIVE)


def test_one_process_reads_the_encoder_and_reads_it_once(text_run: TextRun) -> None:
    """Two workers begin at the same time: one encodes four prompts and the negative one."""
    (attempt,) = attempts(text_run.path)
    assert attempt["workers"] == 2
    assert len(text_run.audit.workers_that_opened(text_run.model.encoder / "config.json")) == 1
    assert len(text_run.audit.workers_that_opened(text_run.path / "manifest.json")) == 2
    features = list((text_run.path / "conditions").rglob("*.safetensors"))
    assert len(features) == len(set(PROMPTS)) + 1


def test_the_manifest_holds_the_prompts(text_run: TextRun) -> None:
    manifest = json.loads((text_run.path / "manifest.json").read_text())
    assert manifest["prompts"] == list(PROMPTS)
    assert manifest["plan"]["text"]["negative_prompt"] == NEGATIVE
    assert manifest["plan"]["ema"] == "ema_denoiser"
    assert manifest["weights_origin"] == {"weights": "pixelgen.ckpt", "text_encoder": "qwen"}
    assert str(text_run.model.encoder.parent) not in json.dumps(manifest)


def test_shards_hold_the_prompt_of_each_sample(text_run: TextRun) -> None:
    """A label is the place of the prompt in the list: the sample index modulo their number."""
    shards = sorted((text_run.path / "images").glob("*.parquet"))
    rows = [row for path in shards for row in pq.read_table(path, use_threads=False).to_pylist()]
    assert [row["sample_index"] for row in rows] == list(range(16))
    assert [row["label"] for row in rows] == [i % len(PROMPTS) for i in range(16)]
    assert [row["prompt"] for row in rows] == [PROMPTS[i % len(PROMPTS)] for i in range(16)]


def test_a_person_sees_how_it_goes(text_run: TextRun) -> None:
    """The plan, the prompts, the progress; results and paths on stdout alone."""
    stderr, stdout = text_run.outcome.stderr, text_run.outcome.stdout
    assert "evalsuite: 5 prompts, 4 of them different" in stderr
    assert "images 16/16" in stderr
    assert "nothing was scored: tiny-pixelgen names no protocol; give --reference" in stderr
    assert stdout.splitlines() == ["run     made", "report  made/report/index.html"]
    assert "Traceback" not in stderr


def test_the_run_card_and_the_report_show_the_prompts(text_run: TextRun) -> None:
    card = (text_run.path / "README.md").read_text()
    assert "5 prompts" in card
    page = (text_run.path / "report" / "index.html").read_text()
    titles = re.findall(
        r'<th scope="row" role="rowheader">(.*?) <span class="sub">prompt (\d)</span>', page
    )
    assert titles == [(html.escape(prompt), str(i)) for i, prompt in enumerate(PROMPTS)]
    assert "sample 6, prompt 1 (a dog &amp; &lt;b&gt;), seed 6" in page
    assert "The first samples of each prompt" in page
    assert f">{NEGATIVE}<" in page


def test_the_encoder_says_how_far_it_is(
    text_run: TextRun,
    run_copy: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Three of five features are there; when all are, nothing is said."""
    from evalsuite.artifacts.run_directory import RunDirectory
    from evalsuite.cli import encoding_view
    from evalsuite.pipeline.materials import Materials

    monkeypatch.setattr(encoding_view, "LINE_EVERY_S", 0.0)
    plan, materials = RunDirectory.open(run_copy).plan, Materials(None, prompts=PROMPTS)
    encoding_view.EncodingView(run_copy, plan, materials).update()
    assert capsys.readouterr().err == ""
    for path in sorted((run_copy / "conditions").rglob("*.safetensors"))[:2]:
        path.unlink()
    encoding_view.EncodingView(run_copy, plan, materials).update()
    first, second = capsys.readouterr().err.splitlines()
    assert "each is encoded once" in first
    assert second == "evalsuite: text encoder: 3 of 5 prompts"


def test_the_same_images_however_the_work_is_cut(
    text_run: TextRun, cluster: HostedCluster, call: Callable[..., Outcome], tmp_path: Path
) -> None:
    """One worker with shards of 8, and prompts typed instead of read."""
    typed = [word for prompt in PROMPTS for word in ("--prompt", prompt)]
    model = ("--model", text_run.model.preset, "--weights", text_run.model.weights)
    encoder = ("--text-encoder", text_run.model.encoder, "--negative-prompt", NEGATIVE)
    work = ("--num-samples", NUM_SAMPLES, "--num-workers", 1, "--shard-size", 8)
    where = ("--output", tmp_path / "other", "--address", cluster.address)
    outcome = call("generate", *model, *encoder, *typed, *work, *where)
    assert outcome.code == 0, outcome.stderr
    assert pixel_hashes(tmp_path / "other") == pixel_hashes(text_run.path)


def test_more_samples_later_encode_nothing(
    text_run: TextRun, run_copy: Path, cluster: HostedCluster, call: Callable[..., Outcome]
) -> None:
    """The features are the run's: the encoder may be gone for the workers."""
    before = sorted((run_copy / "conditions").rglob("*"))
    times = [path.stat().st_mtime_ns for path in before]
    where = ("--output", run_copy, "--address", cluster.address, "--num-workers", 1)
    outcome = call("generate", *plan_of(text_run), "--num-samples", 20, *where)
    assert outcome.code == 0, outcome.stderr
    assert sorted((run_copy / "conditions").rglob("*")) == before
    assert [path.stat().st_mtime_ns for path in before] == times
    assert pixel_hashes(run_copy).items() >= pixel_hashes(text_run.path).items()
    assert attempts(run_copy)[-1]["images_made"] == 4


def test_the_same_command_again_is_free(
    text_run: TextRun, run_copy: Path, call: Callable[..., Outcome]
) -> None:
    outcome = call("run", *plan_of(text_run), "--num-samples", 14, "--output", run_copy)
    assert outcome.code == 0, outcome.stderr
    assert "evalsuite: nothing was missing" in outcome.complaints
    assert attempts(run_copy)[-1]["workers"] == 0


def test_prompts_in_another_order_are_another_plan(
    text_run: TextRun, call: Callable[..., Outcome], tmp_path: Path
) -> None:
    shuffled = tmp_path / "shuffled.txt"
    shuffled.write_text("\n".join(sorted(PROMPTS)))
    model = text_run.model._replace(prompts=shuffled)
    outcome = call(
        *("run", *model.options, "--negative-prompt", NEGATIVE, "--num-samples", 14),
        *("--output", text_run.path),
    )
    assert outcome.code == 2
    assert "holds a run of another plan: text.prompts.sha256" in outcome.complaints[-1]


def test_sample_makes_one_image_again(
    text_run: TextRun, call: Callable[..., Outcome], tmp_path: Path
) -> None:
    expected = pixel_hashes(text_run.path)[6]
    outcome = call("sample", *plan_of(text_run), "--index", 6, "--output", "one.png")
    assert outcome.code == 0, outcome.stderr
    assert png_hash((tmp_path / "one.png").read_bytes()) == expected
    assert f"seed 6  prompt 1  pixel_sha256 {expected}" in outcome.stdout


def test_verify_wants_the_files_and_finds_the_pixels_equal(
    text_run: TextRun, call: Callable[..., Outcome]
) -> None:
    outcome = call("verify", text_run.path, *text_run.rerun)
    assert outcome.code == 0, outcome.stderr
    assert outcome.stdout.count(": equal") == 2
    for missing, words in (
        (text_run.rerun[:2], "the text encoder of the run was qwen: give it with --text-encoder"),
        (text_run.rerun[2:], "the weights of the run, pixelgen.ckpt: give them with --weights"),
    ):
        outcome = call("verify", text_run.path, *missing)
        assert outcome.code == 2
        assert words in outcome.complaints[-1]


def test_status_export_and_gc(
    text_run: TextRun, run_copy: Path, call: Callable[..., Outcome], tmp_path: Path
) -> None:
    assert "asked   14 samples" in call("status", run_copy).stdout
    exported = call("export", run_copy, "--format", "adm-npz", "--output", "s.npz")
    assert exported.code == 0, exported.stderr
    archive = np.load(tmp_path / "s.npz")
    hashes = [hashlib.sha256(image.tobytes()).hexdigest() for image in archive["arr_0"]]
    assert hashes == list(pixel_hashes(text_run.path).values())[:NUM_SAMPLES]
    assert archive["arr_1"].tolist() == [i % len(PROMPTS) for i in range(NUM_SAMPLES)]
    features = sorted((run_copy / "conditions").rglob("*"))
    assert call("gc", run_copy).code == 0
    assert sorted((run_copy / "conditions").rglob("*")) == features


def test_a_long_prompt_is_refused_and_may_be_cut(
    text_run: TextRun, call: Callable[..., Outcome], tmp_path: Path
) -> None:
    (tmp_path / "long.txt").write_text(f"a cat\n{LONG}\n")
    model = text_run.model._replace(prompts=tmp_path / "long.txt")
    refused = call("run", *model.options, "--output", "made")
    assert refused.code == 2
    (line,) = refused.complaints
    assert re.search(r"prompt 1 has \d\d tokens, the text encoder takes 12: .* does not fit", line)
    assert "--cut-prompts" in line
    assert not (tmp_path / "made").exists()
    cut = call("sample", *model.options, "--cut-prompts", "--index", 1)
    assert cut.code == 0, cut.stderr
    assert any("cut, as the published programs do" in text for text in cut.complaints)


def test_values_that_are_no_numbers_are_one_line_from_the_worker(
    text_run: TextRun, cluster: HostedCluster, call: Callable[..., Outcome], tmp_path: Path
) -> None:
    """Only the values are wrong, so only who reads them can say it; nothing is committed."""
    import torch

    content = torch.load(text_run.model.weights, mmap=True, weights_only=True)["state_dict"]
    state = {k.removeprefix("ema_denoiser."): v for k, v in content.items() if k[:4] == "ema_"}
    state["final_layer.linear.bias"] = torch.full_like(state["final_layer.linear.bias"], torch.nan)
    weights = save_lightning(tmp_path / "nan.ckpt", {"ema_denoiser": state})
    model = text_run.model._replace(weights=weights)
    where = ("--output", "made", "--address", cluster.address, "--num-workers", 1)
    outcome = call("generate", *model.options, "--num-samples", 4, *where)
    assert outcome.code == WRONG
    assert outcome.complaints[-1] == (
        "evalsuite: weights nan.ckpt: tensor final_layer.linear.bias holds NaN or infinite values"
    )
    assert not list((tmp_path / "made").glob("receipts/*/*"))


@pytest.fixture(scope="module")
def random_run(
    text_run: TextRun, cluster: HostedCluster, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Outcome]:
    """A trial: weights and features are random numbers, prompts the package's own."""
    run = tmp_path_factory.mktemp("random") / "made"
    where = ("--output", run, "--address", cluster.address, "--num-workers", 1)
    model = ("--model", text_run.model.preset, "--weights", "random:1")
    return run, call_main("run", *model, "--num-samples", 4, *where)


def test_a_trial_with_random_weights_is_marked_everywhere(
    random_run: tuple[Path, Outcome],
) -> None:
    run, outcome = random_run
    assert outcome.code == 0, outcome.stderr
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["plan"]["ema"] == "random:1"
    assert manifest["weights_origin"] == {"weights": "random:1"}
    assert "with RANDOM WEIGHTS: no result" in (run / "README.md").read_text()
    said = "\n".join(outcome.complaints)
    assert "RANDOM WEIGHTS: the images are noise" in said
    assert "nothing was scored: the weights are random numbers" in said
    assert not (run / "report").exists()
    assert not (run / "conditions").exists()


@pytest.mark.parametrize("command", ["report", "evaluate"])
def test_a_trial_is_no_result(
    command: str, random_run: tuple[Path, Outcome], call: Callable[..., Outcome]
) -> None:
    outcome = call(command, random_run[0])
    assert outcome.code == 2
    assert "was made with random weights" in outcome.complaints[-1]


@pytest.mark.parametrize("option", ["--reference=digits-16-train", "--metrics=fid"])
def test_a_trial_is_not_asked_for_metrics(
    option: str, text_run: TextRun, call: Callable[..., Outcome]
) -> None:
    model = ("--model", text_run.model.preset, "--weights", "random:1")
    outcome = call("run", *model, option, "--output", "made")
    assert outcome.code == 2
    assert "images of random weights are not scored" in outcome.complaints[-1]


def test_verify_makes_a_trial_again(
    random_run: tuple[Path, Outcome], call: Callable[..., Outcome]
) -> None:
    outcome = call("verify", random_run[0])
    assert outcome.code == 0, outcome.stderr
    assert ": equal" in outcome.stdout

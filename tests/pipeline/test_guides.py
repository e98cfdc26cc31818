"""Autoguidance in plans: a weaker model in the place of the unconditional one."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import Outcome, png_hash
from safetensors.torch import load_file, save_file
from tiny_text import NEGATIVE, TinyText, tiny_text, write_preset

from evalsuite.artifacts.manifest import Manifest
from evalsuite.config import ModelPreset, load_spec
from evalsuite.errors import DataError, UsageError
from evalsuite.pipeline.conditions import TextRequest
from evalsuite.pipeline.generation import BatchSampler
from evalsuite.pipeline.materials import (
    Materials,
    RerunRequest,
    check_materials,
    materials_of,
)
from evalsuite.pipeline.plan import GuideRequest, PlanOptions, ResolvedPlan, resolve_plan
from evalsuite.pipeline.weights import WeightsRequest
from evalsuite.sampling.describe import describe_sampler

DIGITS = load_spec(ModelPreset, "pixnerd-digits")
OWN = DIGITS.path.parent / str(DIGITS.weights.file)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def weaker(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digits' weights with noise of a tenth of their size."""
    generator = torch.Generator().manual_seed(0)
    state = {
        key: tensor + 0.1 * tensor.std() * torch.randn(tensor.shape, generator=generator)
        for key, tensor in load_file(OWN).items()
    }
    path = tmp_path_factory.mktemp("guide") / "weaker.safetensors"
    save_file(state, path)
    return str(path)


def resolved(
    guide: GuideRequest | None, model: str = "pixnerd-digits", **more: Any
) -> ResolvedPlan:
    sampling = {"num_steps": 5, "guidance_scale": 2.0} | more.pop("sampling", {})
    return resolve_plan(PlanOptions(model, guide=guide, batch_size=10, sampling=sampling, **more))


def made(found: ResolvedPlan) -> tuple[bytes, int]:
    """Pixels and evaluations per image of one batch."""
    batch = BatchSampler(found.plan, found.materials, torch.device("cpu")).batch(0)
    return batch.rows.images_NHWC.tobytes(), batch.nfe


def test_a_model_that_guides_itself_changes_nothing() -> None:
    """v + s (v - v) is v, to the bit: the pixels are those without guidance."""
    guided, unguided = (
        resolved(GuideRequest(str(OWN))),
        resolved(None, sampling={"guidance_scale": 1}),
    )
    assert made(guided)[0] == made(unguided)[0]
    assert guided.plan.plan_id != unguided.plan.plan_id


def test_a_guide_under_the_null_condition_is_classifier_free_guidance() -> None:
    """The same weights without a label are what guidance uses anyway, up to batches' last bits."""
    own = made(resolved(GuideRequest(str(OWN), condition="null")))
    usual = made(resolved(None))
    assert own[1] == usual[1]
    pixels = [torch.frombuffer(bytearray(p), dtype=torch.uint8).int() for p, _ in (own, usual)]
    assert (pixels[0] - pixels[1]).abs().max() <= 1


def test_a_weaker_guide_is_part_of_the_plan(weaker: str) -> None:
    """By hash, EMA and condition; each evaluation of it counts, inside the interval alone."""
    same, null = (resolved(GuideRequest(weaker, condition=c)) for c in ("same", "null"))
    usual = resolved(None)
    assert len({found.plan.plan_id for found in (same, null, usual)}) == 3
    assert len({made(found)[0] for found in (same, null, usual)}) == 3
    assert made(same)[1] == made(usual)[1] == 5 + 3  # t = 0.2, 0.4 and 0.6 of (0.1, 0.7)
    guide = same.plan.guide
    assert guide
    assert (guide.ema, guide.condition) == ("unstated", "same")
    assert same.origin["guide_weights"] == "weaker.safetensors"
    assert f"by unstated {guide.weights_sha256[:8]}" in "; ".join(describe_sampler(same.plan))


def test_a_guide_has_to_be_there(weaker: str) -> None:
    """Neither silently left out nor taken for another one."""
    found = resolved(GuideRequest(weaker))
    for guide, words in ((None, "the plan's guide .* are not here"), (OWN, "not the plan's")):
        lacking = Materials(weights=OWN, guide=guide)
        with pytest.raises(DataError, match=words):
            BatchSampler(found.plan, lacking, torch.device("cpu"))


def test_a_guide_is_judged_at_the_size_of_the_run() -> None:
    """Both networks take any size: what their presets make by default says nothing."""
    guide, size = GuideRequest("random:1", "pixnerd-xl-512"), (512, 512)
    found = resolved(guide, "pixnerd-xl-256", weights=WeightsRequest("random:0"), size=size)
    assert found.plan.guide
    assert found.plan.size == size


def test_a_guide_of_another_kind_is_refused(weaker: str, tmp_path: Path) -> None:
    """Other classes, another size, another prediction, other weights than its preset's."""
    for guide, words in (
        (GuideRequest(weaker, "pixnerd-xl-256"), "other classes than"),
        (GuideRequest(weaker, "pixnerd-digit"), "did you mean 'pixnerd-digits'"),
        (GuideRequest(weaker, ema="raw0"), "no such weights"),
        (GuideRequest("random:0"), "trials with random --weights alone"),
    ):
        with pytest.raises(UsageError, match=words):
            resolved(guide)
    with pytest.raises(DataError, match=r"^--guide-weights none\.ckpt does not exist"):
        resolved(GuideRequest("none.ckpt"))
    with pytest.raises(UsageError, match="t_eps is for both or for neither"):
        resolved(GuideRequest(weaker, "pixelgen-xl-256"), "pixnerd-xl-256", weights=RANDOM)
    with pytest.raises(DataError, match=r"do not fit the model.*look like pixnerd-class"):
        resolved(GuideRequest(weaker), "pixnerd-xl-256", weights=RANDOM)


RANDOM = WeightsRequest("random:0")


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> TinyText:
    return tiny_text(tmp_path_factory.mktemp("text"))


def test_a_text_model_is_guided_by_one_that_reads_the_same_encoder(
    text_model: TinyText, tmp_path: Path
) -> None:
    """Its raw weights guide its average under the same prompt; another encoder is refused."""
    text = TextRequest(prompts=text_model.prompts, encoder=text_model.encoder)
    common: dict[str, Any] = {
        "model": str(text_model.preset),
        "weights": WeightsRequest(str(text_model.weights)),
        "text": text,
    }
    usual = resolved(None, **common)
    guided = resolved(GuideRequest(str(text_model.weights), ema="raw"), **common)
    assert guided.plan.guide
    assert (guided.plan.ema, guided.plan.guide.ema) == ("ema_denoiser", "denoiser")
    assert made(guided)[0] != made(usual)[0]
    other = write_preset(
        tmp_path, text={"encoder": {"repo": "other/model", "max_length": 12, "width": 64}}
    )
    with pytest.raises(UsageError, match="another text encoder"):
        resolved(GuideRequest(str(text_model.weights), str(other)), **common)
    assert NEGATIVE not in guided.plan.canonical.decode()


def test_a_finished_run_says_which_guide_it_wants(weaker: str) -> None:
    """A file is known by its name and its hash: it has to be given, and be the one."""
    found = resolved(GuideRequest(weaker))
    manifest = Manifest(
        model="pixnerd-digits",
        plan_id=found.plan.plan_id,
        plan=found.plan,
        weights_origin=dict(found.origin),
        formats={},
        created_at="2026-01-01T00:00:00+00:00",
    )
    with pytest.raises(UsageError, match=r"the guide of the run was weaker\.safetensors: give it"):
        materials_of(manifest, RerunRequest())
    again = materials_of(manifest, RerunRequest(guide_weights=weaker))
    assert (again.weights, again.guide) == (OWN, Path(weaker))
    check_materials(found.plan, again)
    with pytest.raises(DataError, match="are not the plan's"):
        check_materials(found.plan, materials_of(manifest, RerunRequest(guide_weights=str(OWN))))
    usual = manifest.model_copy(update={"plan": resolved(None).plan})
    with pytest.raises(UsageError, match="the run has no guide"):
        materials_of(usual, RerunRequest(guide_weights=weaker))


def test_a_guide_on_the_command_line(
    weaker: str, call: Callable[..., Outcome], tmp_path: Path
) -> None:
    """`sample` gives the pixels of the plan above; options of a guide want a guide."""
    plan = ("--model", "pixnerd-digits", "--num-steps", 5, "--cfg", 2, "--batch-size", 10)
    guide = ("--guide-weights", weaker, "--guide-condition", "null")
    outcome = call("sample", *plan, *guide, "--index", 3, "--output", "3.png")
    assert outcome.code == 0, outcome.stderr
    images = made(resolved(GuideRequest(weaker, condition="null")))[0]
    size = 16 * 16 * 3
    assert png_hash((tmp_path / "3.png").read_bytes()) == sha256(images[3 * size : 4 * size])
    for flag, value in (("--guide-model", "x"), ("--guide-ema", "raw"), guide[2:]):
        refused = call("sample", *plan, flag, value, "--index", 3)
        assert refused.code == 2
        assert f"{flag} needs --guide-weights" in refused.complaints[-1]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

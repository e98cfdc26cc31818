"""Text models without Ray: prompts to features to pixels, what the plan says, what is refused."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_text import LONG, NEGATIVE, PROMPTS, D, T, TinyText, network_of, tiny_text, write_preset

from evalsuite.artifacts.digests import cache_root
from evalsuite.conditioning.text_encoder import load_encoder
from evalsuite.errors import CorruptionError, DataError, UsageError
from evalsuite.models.loading import load_module
from evalsuite.models.native import TextFeatures
from evalsuite.pipeline.conditions import TextRequest, features_of
from evalsuite.pipeline.generation import BatchSampler
from evalsuite.pipeline.plan import PlanOptions, ResolvedPlan, resolve_plan
from evalsuite.pipeline.weights import WeightsRequest
from evalsuite.sampling.describe import describe_conditions
from evalsuite.sampling.noise import draw_noise, sample_generators
from evalsuite.sampling.pixels import UINT8_RULES

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["pixelgen", "pixnerd"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TinyText:
    """Both families that read Qwen3. Not to be changed."""
    return tiny_text(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def pixnerd(tmp_path_factory: pytest.TempPathFactory) -> TinyText:
    """The one that predicts velocities. Not to be changed."""
    return tiny_text(tmp_path_factory.mktemp("one"), "pixnerd")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVALSUITE_CACHE", str(tmp_path / "cache"))
    torch.set_num_threads(1)


def resolved(model: TinyText, weights: str | None = None, **changes: Any) -> ResolvedPlan:
    """The plan of that model; `changes` are fields of the text request or of the options."""
    text = {"prompts": model.prompts, "encoder": model.encoder, "negative_prompt": NEGATIVE}
    text |= {key: changes.pop(key) for key in (*text, "prompt", "cut") if key in changes}
    request = WeightsRequest(weights or str(model.weights))
    options = {"model": str(model.preset), "weights": request, "text": TextRequest(**text)}
    return resolve_plan(PlanOptions(**(options | changes)))


def pixels(found: ResolvedPlan, batch: int = 0) -> torch.Tensor:
    """One batch [N,H,W,3] uint8."""
    images = BatchSampler(found.plan, found.materials, CPU).batch(batch).rows.images_NHWC
    return torch.from_numpy(images)


def test_pixels_are_those_of_the_prompts_under_the_negative_prompt(pixnerd: TinyText) -> None:
    """Two Euler steps by hand: the first, at t = 0, is not guided; the null is the negative."""
    settings = {"solver": "euler", "num_steps": 2, "timeshift": 1.0, "guidance_scale": 3.0}
    found = resolved(pixnerd, sampling=settings)
    made = pixels(found, 1)

    assert found.plan.text
    assert found.plan.text.encoder
    encoder = load_encoder(found.plan.text.encoder, pixnerd.encoder, CPU)
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(4, 8)]
    given = encoder.encode(prompts).float()
    null = encoder.encode([NEGATIVE], negative=True).float().expand_as(given)
    net = load_module("pixnerd-text", network_of("pixnerd"), pixnerd.weights, "ema_denoiser")
    x = draw_noise(sample_generators(range(4, 8)), (3, 16, 16))
    with torch.inference_mode():
        x = x + 0.5 * net(x, torch.zeros(4), given)
        half = torch.full((4,), 0.5)
        conditional, unconditional = net(x, half, given), net(x, half, null)
        x = x + 0.5 * (unconditional + 3.0 * (conditional - unconditional))
    expected = UINT8_RULES["half_up"](x)
    assert (made.int() - expected.int()).abs().max() <= 1  # sums in another order
    assert (made != expected).float().mean() < 0.01


def test_features_are_read_once_and_then_the_encoder_is_not_needed(
    model: TinyText, tmp_path: Path
) -> None:
    """Five prompts, four different ones, and the negative: five files; no second encoding."""
    encoder = shutil.copytree(model.encoder, tmp_path / "qwen")
    found = resolved(model, encoder=encoder)
    before = pixels(found)
    files = sorted((cache_root() / "conditions").rglob("*.safetensors"))
    assert len(files) == len(set(PROMPTS)) + 1
    shutil.rmtree(encoder)
    assert torch.equal(pixels(found), before)
    assert sorted((cache_root() / "conditions").rglob("*.safetensors")) == files
    assert len({image.numpy().tobytes() for image in before}) == 4


def test_features_are_read_ahead_of_the_sampler(pixnerd: TinyText, tmp_path: Path) -> None:
    """When a batch's noise is drawn: then the sampler needs no file, and few prompts are kept."""
    found = resolved(pixnerd)
    sampler = BatchSampler(found.plan, found.materials, CPU, tmp_path / "conditions")
    wanted = pixels(found)
    drawn = sampler.inputs(0)
    shutil.rmtree(tmp_path / "conditions")
    assert torch.equal(torch.from_numpy(sampler.sample(drawn).rows.images_NHWC), wanted)
    read: list[str] = []

    def features(prompts: Sequence[str]) -> list[torch.Tensor]:
        read.extend(prompts)
        return [torch.zeros(1, 1) for _ in prompts]

    few = TextFeatures(features, torch.zeros(1, 1), 2)
    for prompts in ("ab", "ab", "c", "b", "a"):
        few.read_ahead(prompts)
    assert read == ["a", "b", "c", "a"]
    assert few.positive("abca").shape == (4, 1, 1)


def test_a_retargeted_sampler_reads_the_other_runs_features(
    pixnerd: TinyText, tmp_path: Path
) -> None:
    """Copied where they are, not encoded anew; the first run's folder may then go."""
    first, second = tmp_path / "first", tmp_path / "second"
    encoder = shutil.copytree(pixnerd.encoder, tmp_path / "qwen")
    found, other = (resolved(pixnerd, encoder=encoder, first_seed=seed) for seed in (0, 100))
    sampler = BatchSampler(found.plan, found.materials, CPU, first)
    wanted = pixels(other)
    shutil.rmtree(encoder)
    sampler.retarget(other.plan, other.materials, second)
    names = [
        sorted(path.name for path in folder.rglob("*.safetensors")) for folder in (first, second)
    ]
    assert names[0] == names[1] != []
    shutil.rmtree(first)
    assert torch.equal(torch.from_numpy(sampler.batch(0).rows.images_NHWC), wanted)


def test_a_prompt_and_a_seed_decide_an_image(model: TinyText) -> None:
    """Equal prompts at other seeds give other images; another negative prompt changes them all."""
    first, other = pixels(resolved(model)), pixels(resolved(model, negative_prompt="the sea"))
    assert PROMPTS[0] == PROMPTS[3]
    assert not torch.equal(first[0], first[3])
    assert all(not torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_the_plan_names_prompts_by_content_and_order(model: TinyText, tmp_path: Path) -> None:
    """A file and repeated options are one plan; another order, another text is another plan."""
    plan = resolved(model).plan
    assert resolved(model, prompts=None, prompt=PROMPTS).plan == plan
    shuffled = resolved(model, prompts=None, prompt=PROMPTS[::-1]).plan
    assert shuffled.plan_id != plan.plan_id
    assert resolved(model, negative_prompt="").plan.plan_id != plan.plan_id
    assert plan.num_conditions == 5
    assert describe_conditions(plan).startswith("5 prompts ")
    moved = shutil.copytree(model.encoder, tmp_path / "elsewhere")
    assert resolved(model, encoder=moved).plan == plan
    assert str(model.encoder.parent) not in plan.canonical.decode()


def test_a_prompt_that_is_too_long_is_refused_with_its_count(model: TinyText) -> None:
    with pytest.raises(UsageError, match=r"prompt 1 has \d\d tokens, the text encoder takes 12"):
        resolved(model, prompts=None, prompt=("a cat", LONG))
    with pytest.raises(UsageError, match=r"negative prompt has .* give --cut-prompts"):
        resolved(model, negative_prompt=LONG)
    with pytest.raises(UsageError, match=r"\(and 1 more\)"):
        resolved(model, prompts=None, prompt=(LONG, LONG))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", ["pixnerd-xxl-t2i", "pixeldit-t2i-1024", "own"])
def test_other_noises_than_the_published_figures_are_of_are_said(
    model: TinyText, shared: bool, name: str, tmp_path: Path
) -> None:
    """Of a list of prompts, such as a benchmark's, under the name of a published model."""
    if name == "own":  # which has no published figures
        content = {"extends": "pixnerd-xxl-t2i", "name": "own", "title": "T", "description": "D"}
        (tmp_path / "own.yaml").write_text(yaml.safe_dump(content))
    text = TextRequest(prompts=model.prompts, shared_seeds=shared)
    random = WeightsRequest("random:0")
    asked = str(tmp_path / "own.yaml") if name == "own" else name
    found = resolve_plan(PlanOptions(asked, weights=random, text=text))
    said = [notice for notice in found.notices if "--shared-seeds takes those" in notice]
    assert len(said) == (0 if shared or name == "own" else 1)


def test_a_prompt_may_be_cut_and_that_is_said(model: TinyText) -> None:
    """What is cut off decides nothing, but the plan names the whole text."""
    cut = resolved(model, prompts=None, prompt=(LONG,), cut=True)
    assert "cut, as the published programs do" in cut.notices[0]
    longer = resolved(model, prompts=None, prompt=(f"{LONG} and more",), cut=True)
    assert longer.plan.plan_id != cut.plan.plan_id
    assert torch.equal(pixels(cut), pixels(longer))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": ("a cat",)}, "exclude each other"),
        ({"prompts": None, "prompt": ("  ",)}, "--prompt"),
        ({"negative_prompt": "  "}, "--negative-prompt"),
        ({"labels": "modulo"}, "--labels is for classes"),
        ({"classes": "3"}, "--classes is for classes"),
        ({"size": (18, 16)}, "16"),
        ({"encoder": Path("none")}, "none is no folder"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_text_model_refuses(changes: dict[str, Any], words: str, model: TinyText) -> None:
    with pytest.raises((UsageError, DataError), match=words):
        resolved(model, **changes)


def test_presets_bring_prompts_for_a_first_look(model: TinyText) -> None:
    found = resolved(model, weights="random:0", prompts=None, encoder=None)
    assert "no prompts were given" in found.notices[0]
    assert found.materials.prompts


def test_random_weights_need_no_encoder_and_take_none(model: TinyText) -> None:
    """Their features are noise of the prompt; what would be ignored is refused."""
    found = resolved(model, weights="random:3", encoder=None)
    assert found.plan.has_random_weights
    assert found.materials.encoder is None
    assert len({image.numpy().tobytes() for image in pixels(found)}) == 4
    for ignored in ({"encoder": model.encoder}, {"encoder": None, "cut": True}):
        with pytest.raises(UsageError, match="random weights"):
            resolved(model, weights="random:3", **ignored)


def test_class_models_take_no_prompts(model: TinyText) -> None:
    for request, flag in (
        (TextRequest(prompt=("a cat",)), "--prompt"),
        (TextRequest(prompts=model.prompts), "--prompts"),
        (TextRequest(negative_prompt=""), "--negative-prompt"),
        (TextRequest(encoder=model.encoder), "--text-encoder"),
        (TextRequest(cut=True), "--cut-prompts"),
        (TextRequest(shared_seeds=True), "--shared-seeds"),
    ):
        with pytest.raises(UsageError, match=f"class-conditional: {flag} is for text models"):
            resolve_plan(PlanOptions("pixnerd-digits", text=request))


def test_an_encoder_of_another_size_or_with_other_bytes(model: TinyText, tmp_path: Path) -> None:
    """Refused when features are computed, in one line each."""
    wide = write_preset(
        tmp_path,
        network=network_of("pixelgen", txt_embed_dim=32),
        text={"encoder": {"repo": "someone/model", "max_length": T, "width": 32}},
    )
    found = resolved(model._replace(preset=wide), weights="random:0", encoder=None)
    assert found.plan.text
    assert found.plan.text.encoder
    with pytest.raises(DataError, match=f"of width {D}, not qwen3 of width 32"):
        load_encoder(found.plan.text.encoder, model.encoder, CPU)
    changed = shutil.copytree(model.encoder, tmp_path / "qwen")
    found = resolved(model, encoder=changed)
    with (changed / "model.safetensors").open("r+b") as weights:
        weights.seek(-4, 2)
        weights.write(b"\0\0\0\0")
    with pytest.raises(CorruptionError, match="other bytes than the plan names"):
        pixels(found)


def test_prompts_that_are_not_the_plans(model: TinyText, tmp_path: Path) -> None:
    plan = resolved(model).plan
    for prompts in (PROMPTS[::-1], PROMPTS[:4]):
        with pytest.raises(DataError, match="the prompts are not the plan's"):
            features_of(plan, prompts, model.encoder, tmp_path, CPU, "0")
    with pytest.raises(DataError, match="--text-encoder"):
        features_of(plan, PROMPTS, None, tmp_path, CPU, "0")


def test_an_instruction_that_is_kept_out_of_the_package_is_asked_for() -> None:
    """PixelDiT's text model cannot run as its authors' without it; a trial can."""
    request = TextRequest(prompt=("a cat",))
    with pytest.raises(UsageError, match=r"lacks the .* lines of instruction"):
        resolve_plan(PlanOptions("pixeldit-t2i-1024", WeightsRequest("none.ckpt"), text=request))
    found = resolve_plan(PlanOptions("pixeldit-t2i-1024", WeightsRequest("random:0"), text=request))
    assert found.plan.has_random_weights

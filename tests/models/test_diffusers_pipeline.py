"""Diffusers pipelines: the pixels of the user's own call, and every fault in one line."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_pipelines import (
    DIT_SIZE,
    MAX_TOKENS,
    SD_SIZE,
    edit_json,
    save_dit,
    save_stable_diffusion,
)

from evalsuite.artifacts.manifest import Manifest
from evalsuite.config import EvaluationDefaults, ModelPreset
from evalsuite.errors import ConfigError, DataError, EnvironmentProblem, UsageError
from evalsuite.models.diffusers_call import DiffusersSettings, read_call
from evalsuite.models.diffusers_folder import pipeline_sha256
from evalsuite.models.diffusers_pipeline import DiffusersModel, find_pipeline
from evalsuite.models.foreign import ForeignModel
from evalsuite.pipeline.fetching import plan_items
from evalsuite.pipeline.foreign_weights import check_foreign_weights, find_foreign_weights
from evalsuite.pipeline.lock import Lock
from evalsuite.pipeline.materials import RerunRequest, check_materials, materials_of
from evalsuite.pipeline.plan import PlanOptions, resolve_plan
from evalsuite.pipeline.settings import foreign_settings
from evalsuite.pipeline.weights import WeightsRequest
from evalsuite.sampling.noise import draw_noise, sample_generators
from evalsuite.sampling.pixels import to_uint8_half_up

SEEDS, LABELS, PROMPTS = (11, 12, 13), (1, 207, 999), ("a red cat", "dog", "a cat")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_dit(tmp_path_factory.mktemp("dit") / "tiny-dit")


@pytest.fixture(scope="module")
def dpm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_dit(tmp_path_factory.mktemp("dpm") / "tiny-dpm", solver="dpm")


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_stable_diffusion(tmp_path_factory.mktemp("sd") / "tiny-sd")


@pytest.fixture
def dit_copy(dit: Path, tmp_path: Path) -> Path:
    """A folder to be damaged."""
    return Path(shutil.copytree(dit, tmp_path / "tiny-dit"))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def find(folder: Path, *, trust_code: bool = False) -> ForeignModel:
    return find_pipeline(str(folder), trust_code=trust_code, offline=True)


def loaded(folder: Path, dtype: str = "float32", negative_prompt: str = "") -> DiffusersModel:
    model = DiffusersModel(find(folder).preset.network, negative_prompt)
    model.load(folder, "as saved", CPU, dtype)
    return model


def images(
    model: DiffusersModel,
    conditions: Sequence[object],
    seeds: Sequence[int] = SEEDS,
    size: tuple[int, int] = DIT_SIZE,
    **settings: object,
) -> torch.Tensor:
    """What a worker does with a batch."""
    generators = sample_generators(seeds)
    noise = draw_noise(generators, model.noise_shape(size))
    with torch.inference_mode():
        return model.sample(
            noise, conditions, generators, DiffusersSettings(num_steps=3, **settings)
        )


def own_call(folder: Path, kind: str, output: str, dtype: str = "float32", **arguments: object):
    """The call that a user of diffusers makes."""
    import diffusers

    pipeline = getattr(diffusers, kind).from_pretrained(
        str(folder), dtype=getattr(torch, dtype), use_safetensors=True
    )
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    given = {"generator": generators, "num_inference_steps": 3, "output_type": output}
    return pipeline(**given, **arguments).images


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("scale", [4.0, 1.0])
def test_a_class_pipeline_gives_the_images_of_the_users_own_call(
    dit: Path, dtype: str, scale: float
) -> None:
    """Bit for bit, guided or not, in each dtype."""
    ours = images(loaded(dit, dtype), LABELS, guidance_scale=scale, dtype=dtype)
    theirs = own_call(
        dit, "DiTPipeline", "np", dtype, class_labels=list(LABELS), guidance_scale=scale
    )
    assert ours.dtype == torch.float32
    assert torch.equal(ours, torch.from_numpy(theirs).permute(0, 3, 1, 2) * 2 - 1)
    assert len({image.numpy().tobytes() for image in ours}) == len(SEEDS)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")
def test_a_multistep_scheduler_keeps_nothing_between_batches(dpm: Path) -> None:
    """DPM-Solver++ remembers earlier steps; a batch must not remember the batch before."""
    model = loaded(dpm)
    first = images(model, LABELS, guidance_scale=4.0)
    images(model, (5, 6, 7), seeds=(1, 2, 3), guidance_scale=4.0)
    assert torch.equal(images(model, LABELS, guidance_scale=4.0), first)


def test_a_text_pipeline_gives_the_images_of_the_users_own_call(diffusion: Path) -> None:
    arguments = {"prompt": list(PROMPTS), "guidance_scale": 7.5, "height": 16, "width": 16}
    ours = images(loaded(diffusion), PROMPTS, size=SD_SIZE, guidance_scale=7.5)
    theirs = own_call(diffusion, "StableDiffusionPipeline", "np", **arguments)
    assert torch.equal(ours, torch.from_numpy(theirs).permute(0, 3, 1, 2) * 2 - 1)


def test_a_negative_prompt_is_that_of_the_users_own_call(diffusion: Path) -> None:
    model = loaded(diffusion, negative_prompt="bad")
    ours = images(model, PROMPTS, size=(24, 16), guidance_scale=7.5)
    arguments = {"prompt": list(PROMPTS), "negative_prompt": ["bad"] * 3, "height": 24, "width": 16}
    theirs = own_call(diffusion, "StableDiffusionPipeline", "np", guidance_scale=7.5, **arguments)
    assert torch.equal(ours, torch.from_numpy(theirs).permute(0, 3, 1, 2) * 2 - 1)
    plain = images(loaded(diffusion), PROMPTS, size=(24, 16), guidance_scale=7.5)
    assert not torch.equal(ours, plain)


def test_half_up_gives_the_pipelines_own_pixels_but_for_halves(dit: Path) -> None:
    """PIL images round 255 x to the nearest, halves to even; ours round halves up."""
    ours = to_uint8_half_up(images(loaded(dit), LABELS, guidance_scale=4.0)).numpy().astype(int)
    asked = {"class_labels": list(LABELS), "guidance_scale": 4.0}
    theirs = np.stack([np.asarray(i) for i in own_call(dit, "DiTPipeline", "pil", **asked)])
    scaled = own_call(dit, "DiTPipeline", "np", **asked).astype(np.float64) * 255
    differ = ours != theirs
    assert (np.abs(scaled[differ] % 1 - 0.5) < 1e-4).all()
    assert differ.mean() < 0.01
    assert len(np.unique(ours)) > 50


def test_an_image_depends_on_its_own_seed_alone(dit: Path) -> None:
    """Another order, or other neighbours, leave each sample what it was, up to rounding."""
    model = loaded(dit)
    whole = images(model, LABELS, guidance_scale=4.0)
    turned = images(model, LABELS[::-1], seeds=SEEDS[::-1], guidance_scale=4.0)
    torch.testing.assert_close(turned.flip(0), whole, atol=1e-5, rtol=0)
    others = images(model, (5, LABELS[1], 6), seeds=(1, SEEDS[1], 2), guidance_scale=4.0)
    torch.testing.assert_close(others[1], whole[1], atol=1e-5, rtol=0)
    assert (others[0] - whole[0]).abs().max() > 0.01


def test_evaluations_are_counted_where_the_network_is_called(dit: Path, diffusion: Path) -> None:
    """Three steps are three evaluations per image, and six when each is a guided pair."""
    model = loaded(dit)
    counts = []
    for scale in (4.0, 1.0):
        images(model, LABELS, guidance_scale=scale)
        counts.append(model.nfe)
    text = loaded(diffusion)
    images(text, PROMPTS, size=SD_SIZE, guidance_scale=7.5)
    assert [*counts, text.nfe] == [6, 3, 6]


def test_what_decides_pixels_is_in_the_plan(dit: Path) -> None:
    import diffusers

    found = find(dit)
    network = found.preset.network
    assert network["pipeline"] == "DiTPipeline"
    assert network["scheduler_class"] == "DDIMScheduler"
    assert network["vae"] == "AutoencoderKL"
    assert network["vae_scale"] == 0.18215
    assert network["guided_channels"] == 4
    assert network["diffusers"] == diffusers.__version__
    assert len(network["vae_sha256"]) == 64
    assert found.family == "diffusers:DiTPipeline"
    assert str(dit.parent) not in found.preset.model_dump_json()
    settings = foreign_settings(found, found.preset, {})
    assert settings == {
        "num_steps": 50,
        "guidance_scale": 4.0,
        "dtype": "float32",
        "vae_dtype": "float32",
    }
    assert foreign_settings(found, found.preset, {"dtype": "bfloat16"})["vae_dtype"] == "bfloat16"


def test_the_published_name_of_a_vae_is_told_and_a_path_is_not(dit_copy: Path) -> None:
    edit_json(dit_copy / "vae" / "config.json", _name_or_path="some/vae-ft")
    assert find(dit_copy).preset.network["vae"] == "some/vae-ft"
    edit_json(dit_copy / "vae" / "config.json", _name_or_path="/home/me/vae")
    assert find(dit_copy).preset.network["vae"] == "AutoencoderKL"


def test_a_folder_says_its_condition_classes_and_size(dit: Path, diffusion: Path) -> None:
    classes, text = find(dit).preset, find(diffusion).preset
    assert (classes.num_classes, classes.size, classes.name) == (1000, DIT_SIZE, "tiny-dit")
    assert classes.class_names[207] == "thing 207, object 207"
    assert (text.num_classes, text.size) == (None, SD_SIZE)
    assert text.settings == {"num_steps": 50, "guidance_scale": 7.5}


def test_a_preset_goes_before_what_the_folder_says(dit: Path) -> None:
    """A YAML beside the folder names it by a relative path and sets its own defaults."""
    preset = ModelPreset(
        name="mine",
        title="Mine",
        description="",
        family="diffusers:tiny-dit",
        licence="MIT",
        num_classes=1000,
        size=DIT_SIZE,
        settings={"num_steps": 7},
        batch_size=2,
        evaluation=EvaluationDefaults(num_samples=4),
        path=dit.parent / "mine.yaml",
    )
    found = find_pipeline("tiny-dit", trust_code=False, offline=True, preset=preset)
    assert found.preset.settings == {"num_steps": 7, "guidance_scale": 4.0}
    assert (found.preset.name, found.preset.batch_size) == ("mine", 2)
    assert found.preset.network == find(dit).preset.network
    idle = preset.model_copy(update={"network": {"depth": 7}})
    with pytest.raises(ConfigError, match="`network` has no effect"):
        find_pipeline("tiny-dit", trust_code=False, offline=True, preset=idle)
    other = preset.model_copy(update={"num_classes": 10})
    with pytest.raises(ConfigError, match="num_classes is 10, not 1000"):
        find_pipeline("tiny-dit", trust_code=False, offline=True, preset=other)


@pytest.mark.parametrize("label", [1000, -1])
def test_a_label_outside_the_classes_is_refused(dit: Path, label: int) -> None:
    """1000 is the label of no class, which the network would take without a word."""
    with pytest.raises(ValueError, match=f"label {label} is none of the classes 0..999"):
        images(loaded(dit), (1, label, 2), guidance_scale=4.0)


def test_a_prompt_that_the_tokenizer_would_cut_is_refused(diffusion: Path) -> None:
    long = "a " * MAX_TOKENS
    with pytest.raises(ValueError, match=rf"has {MAX_TOKENS + 2} tokens; .* takes {MAX_TOKENS}"):
        images(loaded(diffusion), ("dog", long, "cat"), size=SD_SIZE, guidance_scale=7.5)


def test_sizes_are_the_pipelines(dit: Path, diffusion: Path) -> None:
    with pytest.raises(UsageError, match="DiTPipeline makes 8x8, not 16x16"):
        loaded(dit).noise_shape((16, 16))
    with pytest.raises(ValueError, match="divisible by 8"):
        images(loaded(diffusion), PROMPTS, size=(20, 16), guidance_scale=7.5)


def test_a_blanked_image_is_an_error(tmp_path: Path) -> None:
    """A safety checker would make it black, and it would be scored."""
    folder = save_stable_diffusion(tmp_path / "tiny-sd", blanks=True)
    network = find(folder).preset.network
    assert network["safety_checker_class"] == "StableDiffusionSafetyChecker"
    with pytest.raises(ValueError, match="safety checker blanked 3 image"):
        images(loaded(folder), PROMPTS, size=SD_SIZE, guidance_scale=7.5)


def test_code_in_a_folder_does_not_run_unasked(
    dit_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipeline of its own is refused and leaves no trace; allowed, it runs."""
    cache = "diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE"
    monkeypatch.setattr(cache, str(tmp_path / "modules"))
    trace = tmp_path / "it-ran"
    (dit_copy / "own.py").write_text(
        "from pathlib import Path\nfrom diffusers import DiTPipeline\n"
        f"Path({str(trace)!r}).touch()\nclass Own(DiTPipeline):\n    pass\n"
    )
    edit_json(dit_copy / "model_index.json", _class_name=["own", "Own"])
    with pytest.raises(UsageError, match=r"own\.py.*--trust-remote-code"):
        find(dit_copy)
    model = DiffusersModel({"pipeline": "Own"})
    with pytest.raises(UsageError, match=r"own\.py"):
        model.load(dit_copy, "as saved", CPU, "float32")
    assert not trace.exists()
    found = find(dit_copy, trust_code=True)
    assert trace.exists()
    assert found.preset.network["custom_code"] is True
    model = DiffusersModel(found.preset.network)
    model.load(dit_copy, "as saved", CPU, "float32")
    assert images(model, LABELS, guidance_scale=4.0).shape == (3, 3, *DIT_SIZE)


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("None.py", "None.py"),
        ("vae/model.py", "vae/model.py"),
        ("vae/deep/er/model.py", "vae/deep/er/model.py"),
        ("tools/model.py", "tools/model.py"),
        ("auto_map", "auto_map"),
    ],
)
def test_other_ways_in_for_code_are_closed(dit_copy: Path, place: str, why: str) -> None:
    """Files that versions of diffusers were known to run, and configurations that name code."""
    if place == "auto_map":
        edit_json(dit_copy / "transformer" / "config.json", auto_map={"AutoModel": "x.Y"})
    else:
        (dit_copy / place).parent.mkdir(parents=True, exist_ok=True)
        (dit_copy / place).write_text("raise SystemExit\n")
    with pytest.raises(UsageError, match=why):
        find(dit_copy)


def test_a_component_of_another_library_is_code(dit_copy: Path) -> None:
    edit_json(dit_copy / "model_index.json", vae=["antigravity", "AutoencoderKL"])
    with pytest.raises(UsageError, match="its vae is code of its own"):
        find(dit_copy)


def test_truncated_weights_are_one_line(dit_copy: Path) -> None:
    path = dit_copy / "transformer" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="transformer") as caught:
        find(dit_copy)
    assert "\n" not in str(caught.value)


def test_weights_that_lack_a_tensor_are_refused(dit_copy: Path) -> None:
    """diffusers itself would fill it with random numbers and warn."""
    path = dit_copy / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors.pop("proj_out_1.weight")
    save_file(tensors, path)
    with pytest.raises(DataError, match=r"transformer lack 1 tensor.*proj_out_1\.weight"):
        loaded(dit_copy)


def test_a_component_of_an_unknown_class_is_one_line(dit_copy: Path) -> None:
    edit_json(dit_copy / "model_index.json", vae=["diffusers", "AutoencoderOfTomorrow"])
    with pytest.raises(DataError, match="diffusers has no class AutoencoderOfTomorrow"):
        loaded(dit_copy)


def test_weights_of_other_shapes_are_refused(dit_copy: Path) -> None:
    edit_json(dit_copy / "transformer" / "config.json", num_attention_heads=4)
    with pytest.raises(DataError, match="cannot be loaded by diffusers") as caught:
        loaded(dit_copy)
    assert "\n" not in str(caught.value)


def test_pickled_weights_are_refused(dit_copy: Path) -> None:
    path = dit_copy / "vae" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()
    with pytest.raises(DataError, match="vae holds no safetensors weights"):
        find(dit_copy)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"_class_name": "DDPMPipeline"}, "DDPMPipeline has no prompt"),
        ({"_class_name": "StableDiffusionImg2ImgPipeline"}, "needs strength"),
        ({"_class_name": "NoSuchPipeline"}, "has no pipeline NoSuchPipeline"),
        ({"_class_name": "AutoencoderKL"}, "has no pipeline AutoencoderKL"),
        ({"id2label": {"0": "tench", "2": "shark"}}, "classes 0..N-1 once each"),
        ({"id2label": {"0": "tench"}}, "1000 classes, of which 1 have names"),
        ({"unet": ["diffusers", "UNet2DModel"]}, "component unet is missing"),
    ],
)
def test_folders_that_cannot_be_used_say_why(
    dit_copy: Path, change: dict[str, object], fault: str
) -> None:
    edit_json(dit_copy / "model_index.json", **change)
    with pytest.raises((UsageError, DataError), match=fault):
        find(dit_copy)


def test_a_dit_of_other_than_1000_classes_is_refused(tmp_path: Path) -> None:
    """diffusers guides it by label 1000, which is no class only where there are 1000."""
    folder = save_dit(tmp_path / "small", num_classes=10)
    with pytest.raises(UsageError, match="has 10 classes"):
        find(folder)


def test_names_that_are_no_pipeline_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder, and not OWNER/NAME"):
        find_pipeline("nowhere", trust_code=False, offline=True)
    with pytest.raises(DataError, match=r"it has no model_index\.json"):
        find(tmp_path)


def test_other_versions_than_the_plans_are_refused(dit: Path) -> None:
    model = DiffusersModel({**find(dit).preset.network, "diffusers": "0.1"})
    with pytest.raises(EnvironmentProblem, match=r"plan is of diffusers 0\.1"):
        model.load(dit, "as saved", CPU, "float32")


def test_a_pipeline_without_guidance_has_no_such_setting() -> None:
    class Plain:
        def __call__(self, prompt, num_inference_steps=4, generator=None, output_type="pil"):
            """No guidance."""

    call = read_call(Plain)
    assert call.settings == {"num_steps": 4}
    assert call.settings_class(num_steps=4).guidance_scale is None
    with pytest.raises(ValueError, match="guidance_scale"):
        call.settings_class(num_steps=4, guidance_scale=2.0)


def test_the_digest_is_of_what_decides_pixels(dit_copy: Path) -> None:
    """Cards, variants and pickles beside do not count; a scheduler's number does."""
    before = pipeline_sha256(dit_copy)
    (dit_copy / "README.md").write_text("card")
    (dit_copy / "whole.safetensors").write_bytes(b"not a component")
    (dit_copy / "vae" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"variant")
    (dit_copy / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    assert pipeline_sha256(dit_copy) == before
    (dit_copy / "tools").mkdir()
    (dit_copy / "tools" / "code.py").touch()
    assert pipeline_sha256(dit_copy) != before
    (dit_copy / "tools" / "code.py").unlink()
    edit_json(dit_copy / "scheduler" / "scheduler_config.json", beta_end=0.03)
    assert pipeline_sha256(dit_copy) != before


def test_the_weights_of_a_plan_are_the_folder(dit_copy: Path) -> None:
    found = find(dit_copy)
    weights = find_foreign_weights(found, WeightsRequest())
    assert (weights.path, weights.ema) == (dit_copy, "as saved")
    check_foreign_weights(dit_copy, weights.sha256)
    edit_json(dit_copy / "scheduler" / "scheduler_config.json", beta_end=0.03)
    with pytest.raises(DataError, match="are not the plan's"):
        check_foreign_weights(dit_copy, weights.sha256)
    for request in (WeightsRequest(given="x.safetensors"), WeightsRequest(ema="raw")):
        with pytest.raises(UsageError, match="tiny-dit"):
            find_foreign_weights(found, request)


def test_a_hubs_pipeline_is_the_folder_without_what_is_never_opened(
    dit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variants, pickles and single files for other programs are not even asked for."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "artifacts")
    from hub_server import FIRST, Hub, serving

    files = {file.relative_to(dit).as_posix(): file for file in dit.rglob("*") if file.is_file()}
    content = {(FIRST, name): file.read_bytes() for name, file in files.items()}
    unopened = (
        "tiny-dit.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
        "vae/diffusion_pytorch_model-00001-of-00002.fp16.safetensors",
        "vae/diffusion_pytorch_model.bin",
    )
    with serving(Hub(files=content | {(FIRST, name): b"x" * 200 for name in unopened})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("EVALSUITE_CACHE", str(tmp_path / "digests"))
        found = find_pipeline(hub.repo, trust_code=False, offline=False)
        assert not any(request.endswith(unopened) for request in hub.requests)
        resolved = resolve_plan(PlanOptions(f"diffusers:{hub.repo}"))
        (item,) = plan_items(resolved)
        assert (item.repo, item.revision, item.asked) == (hub.repo, FIRST, None)
        hub.branches["main"] = "2" * 40  # offline and by the lock it is the fetched one still
        lock = Lock(model="tiny", items=(item,))
        request = WeightsRequest(offline=True, lock=lock)
        again = resolve_plan(PlanOptions(f"diffusers:{hub.repo}", weights=request))
        assert again.plan == resolved.plan
        with pytest.raises(UsageError, match="the lock file holds revision the newest of it"):
            resolve_plan(PlanOptions(f"diffusers:{hub.repo}@v2", weights=request))
    assert found.pipeline is not None
    fetched = {p.relative_to(found.pipeline).as_posix() for p in found.pipeline.rglob("*.*")}
    assert fetched == files.keys()
    assert pipeline_sha256(found.pipeline) == pipeline_sha256(dit)


def test_verify_takes_a_pipeline_by_name_or_by_weights(dit: Path, diffusion: Path) -> None:
    """No code is trusted where none is run; another pipeline is refused."""
    found = resolve_plan(PlanOptions(f"diffusers:{dit}", sampling={"num_steps": 1}))
    manifest = Manifest(
        model=found.preset.name,
        plan_id=found.plan.plan_id,
        plan=found.plan,
        formats={},
        created_at="2026-01-01T00:00:00+00:00",
    )
    for request in (RerunRequest(model=f"diffusers:{dit}"), RerunRequest(weights=str(dit))):
        materials = materials_of(manifest, request)
        check_materials(found.plan, materials)
        assert materials.weights == dit
    with pytest.raises(UsageError, match="the run's is diffusers:DiTPipeline"):
        materials_of(manifest, RerunRequest(model=f"diffusers:{diffusion}"))

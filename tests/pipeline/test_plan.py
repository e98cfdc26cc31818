"""From a preset and options to a plan: what every option does, and every refusal."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from run_maker import SPEC, resolved
from safetensors.torch import load_file, save_file

from evalsuite.config import LabelRule, ModelPreset, SamplingSettings, load_spec
from evalsuite.errors import ConfigError, DataError, EvalsuiteError, UsageError
from evalsuite.pipeline.conditions import TextRequest
from evalsuite.pipeline.labels import labels_sha256, parse_label_rule
from evalsuite.pipeline.plan import PlanOptions, check_count, resolve_plan, with_weights
from evalsuite.pipeline.settings import native_settings
from evalsuite.pipeline.weights import WeightsRequest
from evalsuite.seeding import REPLICATE_STRIDE

PRESET = load_spec(ModelPreset, "pixnerd-digits")
WEIGHTS = PRESET.path.parent / PRESET.weights.file


def plan_of(**options: Any) -> Any:
    """The plan of the digits preset with options."""
    return resolve_plan(PlanOptions("pixnerd-digits", **options)).plan


def test_without_options_the_plan_is_the_presets() -> None:
    plan = plan_of()
    assert plan.sampling == PRESET.sampling
    assert (plan.size, plan.batch_size, plan.first_seed) == (PRESET.size, PRESET.batch_size, 0)
    assert plan.weights_sha256 == PRESET.weights.sha256
    assert plan.labels == LabelRule()
    assert plan.plan_id == plan_of().plan_id


@pytest.mark.parametrize(
    "options",
    [
        {"replicate": 1},
        {"first_seed": 5},
        {"labels": "random:3"},
        {"labels": "blocked:20"},
        {"classes": "seven,3"},
        {"size": (16, 20)},
        {"batch_size": 7},
        {"sampling": {"num_steps": 3}},
        {"sampling": {"guidance_scale": 1}},
        {"sampling": {"solver": "euler"}},
    ],
    ids=str,
)
def test_every_option_that_decides_pixels_is_in_the_plan(options: dict[str, Any]) -> None:
    assert plan_of(**options).plan_id != plan_of().plan_id


def test_options_that_say_what_the_preset_says_change_nothing() -> None:
    """Nor does naming the preset's own weights by path: identity is their SHA-256."""
    fields = PRESET.sampling.model_dump()
    same = plan_of(
        first_seed=0,
        labels="modulo",
        size=PRESET.size,
        batch_size=50,
        sampling=fields,
        weights=WeightsRequest(str(WEIGHTS)),
    )
    assert same == plan_of(replicate=0) == plan_of()


def test_replicates_are_far_apart() -> None:
    assert plan_of(replicate=3).first_seed == 3 * REPLICATE_STRIDE


def test_another_solver_forgets_what_belongs_to_the_old_one() -> None:
    """The preset's order is of `adams`; a new `adams` has order 2."""
    euler = plan_of(sampling={"solver": "euler"}).sampling
    assert (euler.solver, euler.order, euler.step) == ("euler", None, "ode")
    assert euler.guidance_scale == PRESET.sampling.guidance_scale
    assert plan_of(sampling={"solver": "adams", "order": 4}).sampling.order == 4
    assert plan_of(sampling={"order": 3}).sampling.order == 3


def test_a_copy_of_the_weights_is_the_same_plan_and_others_are_another(tmp_path: Path) -> None:
    copy, other = tmp_path / "copy.safetensors", tmp_path / "other.safetensors"
    shutil.copy(WEIGHTS, copy)
    save_file({k: v + 1 for k, v in load_file(WEIGHTS).items()}, other)
    assert plan_of(weights=WeightsRequest(str(copy))) == plan_of()
    found = resolve_plan(PlanOptions("pixnerd-digits", weights=WeightsRequest(str(other))))
    assert found.plan.weights_sha256 != PRESET.weights.sha256
    assert found.plan.ema == "unstated"
    assert found.materials.weights == other


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"text": TextRequest(negative_prompt="ugly")}, "--negative-prompt is for text models"),
    ({"text": TextRequest(negative_prompt="")}, "--negative-prompt is for text models"),
    ({"replicate": 0, "first_seed": 0}, "--replicate and --first-seed exclude each other"),
    ({"size": (16, 18)}, "needs multiples of 4"),
    ({"size": (15, 16)}, "size 15x16"),
    ({"size": (0, 16)}, "size"),
    ({"batch_size": 0}, "batch_size"),
    ({"batch_size": -1}, "batch_size"),
    ({"first_seed": -1}, "first_seed"),
    ({"first_seed": 2**63}, "first_seed"),
    ({"replicate": -1}, "first_seed"),
    ({"labels": "modulus"}, "did you mean 'modulo'"),
    ({"labels": "modulo:3"}, "is not modulo"),
    ({"labels": "blocked"}, "blocked:PER_CLASS"),
    ({"labels": "blocked:0"}, "blocked:PER_CLASS"),
    ({"labels": "blocked:x"}, "blocked:PER_CLASS"),
    ({"labels": "random"}, "random:SEED"),
    ({"labels": "random:-1"}, "random:SEED"),
    ({"labels": "random:" + "9" * 30}, "seed: 9999999999999999"),
    ({"labels": "file:"}, "file:PATH"),
    ({"labels": ""}, "label rule"),
    ({"classes": "10"}, "label 10 is out of range: the model has classes 0..9"),
    ({"classes": "-1"}, "label -1 is out of range"),
    ({"classes": "0-12"}, "0..9"),
    ({"classes": "5-3"}, "5-3"),
    ({"classes": "1,1"}, "names a class twice: 1 one"),
    ({"classes": "sevn"}, "did you mean 'seven'"),
    ({"classes": ""}, "unknown class"),
    ({"sampling": {"num_steps": 0}}, "num_steps"),
    ({"sampling": {"num_steps": -4}}, "num_steps"),
    ({"sampling": {"num_step": 4}}, "did you mean 'num_steps'"),
    ({"sampling": {"solver": "eular"}}, "solver"),
    ({"sampling": {"solver": "euler", "order": 2}}, "--order is for solver adams"),
    ({"sampling": {"order": 5}}, "order"),
    ({"sampling": {"guidance_interval": (0.7, 0.1)}}, "LO HI with 0 <= LO < HI <= 1"),
    ({"sampling": {"guidance_scale": float("nan")}}, "guidance_scale"),
    ({"sampling": {"timeshift": -1}}, "timeshift"),
    ({"sampling": {"noise_scale": 0}}, "noise_scale"),
    ({"sampling": {"dtype": "float16"}}, "dtype"),
    ({"sampling": {"step": "sde"}}, "step 'sde' is for solver euler"),
    ({"sampling": {"last_step": 2}}, "last_step"),
]


@pytest.mark.parametrize(("options", "text"), REFUSED, ids=[str(o) for o, _ in REFUSED])
def test_what_cannot_be_is_refused_in_one_line(options: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        plan_of(**options)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_an_unknown_model_gets_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'pixnerd-digits'"):
        resolve_plan(PlanOptions("pixnerd-digit"))


def test_weights_that_are_not_there() -> None:
    with pytest.raises(DataError, match=r"--weights none\.safetensors does not exist"):
        plan_of(weights=WeightsRequest("none.safetensors"))
    with pytest.raises(DataError, match="/ "):
        plan_of(weights=WeightsRequest("/"))


def label_file(tmp_path: Path, text: str) -> str:
    """`file:PATH` of a label file with that text."""
    path = tmp_path / "labels.txt"
    path.write_text(text)
    return f"file:{path}"


def test_labels_from_a_file_are_identified_by_their_values(tmp_path: Path) -> None:
    """Commas, blanks and lines are the same."""
    rule = label_file(tmp_path, "3, 1 4\n1\n")
    found = resolve_plan(PlanOptions("pixnerd-digits", labels=rule, batch_size=4))
    assert found.materials.file_labels == (3, 1, 4, 1)
    assert found.plan.labels.sha256 == labels_sha256((3, 1, 4, 1))
    again = resolve_plan(
        PlanOptions("pixnerd-digits", labels=label_file(tmp_path, "3 1 4 1"), batch_size=4)
    )
    assert again.plan == found.plan
    check_count(found, 4, None)
    check_count(found, 1, None)
    with pytest.raises(UsageError, match="4 labels; 5 samples in whole batches of 4 need 8"):
        check_count(found, 5, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "holds no labels"), ("1 2 x", "whole numbers"), ("1.5", "whole numbers"), ("10", "0..9")],
)
def test_label_files_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(EvalsuiteError, match=message.replace(".", r"\.")) as caught:
        plan_of(labels=label_file(tmp_path, text))
    assert caught.value.exit_code in {2, 3}


def test_label_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(bytes(range(128, 256)))
    for path in (tmp_path / "none", tmp_path, tmp_path / "binary"):
        with pytest.raises(DataError, match="label file"):
            plan_of(labels=f"file:{path}")


def test_classes_and_a_label_file_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        plan_of(labels=label_file(tmp_path, "1 2"), classes="1")


def test_classes_by_number_range_and_name() -> None:
    assert plan_of(classes="3,5").classes == (3, 5)
    assert plan_of(classes="0-2, 7").classes == (0, 1, 2, 7)
    assert plan_of(classes="Seven,eight").classes == (7, 8)


def test_more_samples_than_a_replicate_holds() -> None:
    found = resolved(replicate=1)
    check_count(found, REPLICATE_STRIDE, 1)
    with pytest.raises(UsageError, match="--first-seed"):
        check_count(found, REPLICATE_STRIDE + 1, 1)
    check_count(found, REPLICATE_STRIDE + 1, None)


@pytest.mark.parametrize("text", ["modulo", "blocked:7", "random:0", "random:12"])
def test_a_rule_describes_itself_as_it_was_typed(text: str) -> None:
    rule, labels = parse_label_rule(text, 10)
    assert rule.describe() == text
    assert labels is None


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"family": "pixnerd-klass"}, "unknown model family 'pixnerd-klass'"),
        ({"network": {"patch_sise": 4}}, "patch_sise"),
        ({"network": {"patch_size": 0}}, "patch_size must be at least 1"),
        ({"network": {"hidden_size": "wide"}}, "hidden_size must be a whole number"),
    ],
)
def test_a_preset_whose_network_cannot_be_built(
    tmp_path: Path, changes: dict[str, Any], text: str
) -> None:
    """Before a worker starts."""
    content = yaml.safe_load(PRESET.path.read_text())
    for key, value in changes.items():
        content[key] = content[key] | value if isinstance(value, dict) else value
    content["weights"]["file"] = str(WEIGHTS)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError) as caught:
        resolve_plan(PlanOptions(str(path)))
    assert text in str(caught.value)


def test_other_extractor_weights_are_another_extractor(tmp_path: Path) -> None:
    """The same bytes are the same one."""
    own = SPEC.path.parent / SPEC.weights.file
    same, other = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    shutil.copy(own, same)
    other.write_bytes(own.read_bytes() + b" ")
    assert with_weights(SPEC, None) == SPEC
    assert with_weights(SPEC, same).extractor_id == SPEC.extractor_id
    assert with_weights(SPEC, other).extractor_id != SPEC.extractor_id
    with pytest.raises(DataError, match="does not exist"):
        with_weights(SPEC, tmp_path / "c")


def test_every_sampling_setting_can_be_asked() -> None:
    """The names that options use are the fields of the settings."""
    fields = PRESET.sampling.model_dump()
    assert fields.keys() == SamplingSettings.model_fields.keys()
    assert plan_of(sampling=fields).sampling == PRESET.sampling
    assert np.isfinite(PRESET.sampling.guidance_scale)


def settings_of(model: str, **asked: Any) -> SamplingSettings:
    """The settings of a published preset with others asked."""
    return native_settings(load_spec(ModelPreset, model), asked)


def test_another_solver_keeps_what_it_has_and_takes_what_the_original_has() -> None:
    """PixelGen's corrector looks up its step's start in both Heuns; its Adams has open ends."""
    reuse = settings_of("pixelgen-xl-256", solver="heun_reuse")
    assert (reuse.corrector_guidance, reuse.interval_ends) == ("start", "left_open")
    adams = settings_of("pixelgen-xl-256", solver="adams")
    assert (adams.corrector_guidance, adams.interval_ends, adams.order) == (None, "open", 2)
    heun = settings_of("pixelgen-xxl-t2i-512", solver="heun")
    assert (heun.corrector_guidance, heun.interval_ends) == ("start", "left_open")
    assert settings_of("jit-b-16-256", solver="dpmpp_2m").grid is None
    heun = settings_of("pixnerd-xl-256", solver="heun")
    assert (heun.guidance_interval, heun.interval_ends) == ((0.0, 1.0), "closed")
    asked = settings_of("pixelgen-xl-256", solver="adams", interval_ends="closed")
    assert asked.interval_ends == "closed"


def test_a_default_that_is_spelt_out_is_the_same_plan(tmp_path: Path) -> None:
    """The plan holds the network in full: a default that changes later changes the plan."""
    path = tmp_path / "mine.yaml"
    path.write_text("extends: pixnerd-digits\nname: mine\nnetwork:\n  in_channels: 3\n")
    assert resolve_plan(PlanOptions(str(path))).plan.plan_id == plan_of().plan_id
    assert plan_of().network["in_channels"] == 3


def test_a_whole_number_for_a_fraction_is_the_same_network(tmp_path: Path) -> None:
    """4 and 4.0 build the same layers, so they are one plan."""
    path = tmp_path / "mine.yaml"
    ids = set()
    for ratio in ("4", "4.0"):
        path.write_text(f"extends: pixelgen-xl-256\nname: mine\nnetwork:\n  mlp_ratio: {ratio}\n")
        options = PlanOptions(str(path), weights=WeightsRequest("random:0"))
        ids.add(resolve_plan(options).plan.plan_id)
    options = PlanOptions("pixelgen-xl-256", weights=WeightsRequest("random:0"))
    assert ids == {resolve_plan(options).plan.plan_id}


def test_where_a_text_encoder_was_found_is_not_in_the_plan() -> None:
    """Its digest is: a mirror of the same files is the same plan."""
    plan = resolve_plan(PlanOptions("pixnerd-xxl-t2i", weights=WeightsRequest("random:0"))).plan
    assert plan.text
    assert plan.text.encoder
    moved = plan.text.encoder.model_copy(update={"repo": "a/mirror", "revision": "0" * 40})
    text = plan.text.model_copy(update={"encoder": moved})
    assert plan.model_copy(update={"text": text}).plan_id == plan.plan_id
    eager = plan.text.encoder.model_copy(update={"attention": "eager"})
    text = plan.text.model_copy(update={"encoder": eager})
    assert plan.model_copy(update={"text": text}).plan_id != plan.plan_id


def test_a_key_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("extends: pixnerd-digits\nname: a\nbatch_size: 2\nbatch_size: 5\n")
    with pytest.raises(ConfigError, match="'batch_size' is given twice"):
        resolve_plan(PlanOptions(str(path)))

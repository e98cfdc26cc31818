"""What a plan needs from disks beside itself; it travels to the workers."""

from dataclasses import dataclass
from pathlib import Path

from evalsuite.artifacts.hub import hub_folder
from evalsuite.artifacts.manifest import Manifest
from evalsuite.config import RANDOM_WEIGHTS, ModelPreset, Plan, load_spec
from evalsuite.errors import DataError, UsageError
from evalsuite.models.diffusers_folder import CUSTOM_CODE
from evalsuite.models.foreign import PYTHON, ForeignModel, foreign_model, is_foreign
from evalsuite.pipeline.conditions import own_encoder
from evalsuite.pipeline.foreign_weights import check_foreign_weights, find_foreign_weights
from evalsuite.pipeline.weights import (
    HUB,
    WeightsRequest,
    check_weights,
    parse_hub_name,
    weights_from_hub,
)


@dataclass(frozen=True)
class Materials:
    """Files that were found and checked, and lists that a plan names by hash alone."""

    weights: Path | None
    """None for random weights, or a model that has none."""
    guide: Path | None = None
    encoder: Path | None = None
    """Folder of the text encoder; None with random weights, or when the model brings its own."""
    file_labels: tuple[int, ...] | None = None
    prompts: tuple[str, ...] | None = None
    code_folder: Path | None = None
    """Where the code of a `python:` model is imported from."""


def check_materials(plan: Plan, materials: Materials) -> None:
    """Raise DataError unless weights and guide are here and the plan's."""
    if plan.sampling is None:
        check_foreign_weights(materials.weights, plan.weights_sha256)
        return
    _check_file(materials.weights, plan.weights_sha256, plan.ema, "weights")
    if plan.guide is not None:
        _check_file(materials.guide, plan.guide.weights_sha256, plan.guide.ema, "guide")


def _check_file(path: Path | None, sha256: str, ema: str, what: str) -> None:
    if path is not None:
        check_weights(path, sha256)
    elif not ema.startswith(RANDOM_WEIGHTS):
        raise DataError(f"the plan's {what} ({ema}, SHA-256 {sha256[:12]}...) are not here")


@dataclass(frozen=True)
class RerunRequest:
    """Where to look for what a finished run was made of."""

    model: str | None = None
    """Preset, when the run's own is not known here; of a `python:` model, beside its code."""
    weights: str | None = None
    guide_weights: str | None = None
    text_encoder: Path | None = None
    offline: bool = False
    trust_code: bool = False


def materials_of(manifest: Manifest, request: RerunRequest) -> Materials:
    """What is needed to make samples of a run again; digests are checked when it is loaded.

    Files of a hub are taken at the commits that the run took.

    Raises:
        UsageError: something that cannot be found without an option.
        DataError: weights that are not here.
        EnvironmentProblem: a hub that cannot be reached.
    """
    plan = manifest.plan
    weights, code_folder = None, None
    if is_foreign(plan.family):
        weights, code_folder = _foreign_files(plan, request)
    elif not plan.has_random_weights:
        weights = _weights_of(manifest, request)
    return Materials(
        weights=weights,
        guide=_guide_of(manifest, request),
        encoder=_encoder_of(manifest, request),
        file_labels=manifest.file_labels,
        prompts=manifest.prompts,
        code_folder=code_folder,
    )


def _foreign_files(plan: Plan, request: RerunRequest) -> tuple[Path | None, Path]:
    """Weights of a model with its own sampler, and where its code is looked for."""
    is_code = plan.family.startswith(PYTHON) or plan.network.get(CUSTOM_CODE)
    if is_code and not request.trust_code:
        raise UsageError(f"{plan.family} is code: look at it, then add --trust-remote-code")
    if request.model is None:
        return (Path(request.weights) if request.weights else None), Path.cwd()
    foreign = _foreign_named(request.model, request)
    if foreign.family != plan.family:
        raise UsageError(f"--model {request.model} is {foreign.family}; the run's is {plan.family}")
    wanted = WeightsRequest(given=request.weights, offline=request.offline)
    return find_foreign_weights(foreign, wanted).path, foreign.code_folder or Path.cwd()


def _foreign_named(model: str, request: RerunRequest) -> ForeignModel:
    if is_foreign(model):
        return foreign_model(model, Path.cwd(), request.trust_code, offline=request.offline)
    preset = load_spec(ModelPreset, model)
    if not is_foreign(preset.family):
        raise UsageError(f"--model {model} is of our family {preset.family}; the run's is not")
    folder = preset.path.parent
    return foreign_model(preset.family, folder, request.trust_code, preset, offline=request.offline)


def _weights_of(manifest: Manifest, request: RerunRequest) -> Path:
    """As given; else of the hub that they came from; else the preset's own file."""
    sha256 = manifest.plan.weights_sha256
    if request.weights is not None:
        return _given(request.weights, sha256, offline=request.offline)
    from_hub = _of_origin(manifest, "", sha256, offline=request.offline)
    if from_hub is not None:
        return from_hub
    name = manifest.weights_origin.get("weights", "others than the preset's")
    try:
        preset = load_spec(ModelPreset, request.model or manifest.model)
    except UsageError as error:
        raise UsageError(f"the weights of the run, {name}: give them with --weights") from error
    if preset.weights.file is None or preset.weights.sha256 not in {None, sha256}:
        raise UsageError(f"the weights of the run were {name}: give them with --weights")
    return preset.path.parent / preset.weights.file


def _guide_of(manifest: Manifest, request: RerunRequest) -> Path | None:
    guide = manifest.plan.guide
    if guide is None or guide.ema.startswith(RANDOM_WEIGHTS):
        if request.guide_weights is not None:
            raise UsageError("--guide-weights: the run has no guide with weights")
        return None
    if request.guide_weights is not None:
        return _given(request.guide_weights, guide.weights_sha256, offline=request.offline)
    from_hub = _of_origin(manifest, "guide_", guide.weights_sha256, offline=request.offline)
    if from_hub is None:
        name = manifest.weights_origin.get("guide_weights", "a file")
        raise UsageError(f"the guide of the run was {name}: give it with --guide-weights")
    return from_hub


def _encoder_of(manifest: Manifest, request: RerunRequest) -> Path | None:
    text, origin = manifest.plan.text, manifest.weights_origin
    if text is None or text.encoder_sha256 is None:
        if request.text_encoder is not None:
            raise UsageError("--text-encoder: the run read no text encoder")
        return None
    if request.text_encoder is not None:
        return request.text_encoder
    if "text_encoder_repo" in origin:
        repo, revision = str(origin["text_encoder_repo"]), str(origin["text_encoder_revision"])
        return hub_folder(repo, revision, offline=request.offline)
    name = origin.get("text_encoder", "a folder")
    try:
        own = own_encoder(load_spec(ModelPreset, request.model or manifest.model))
    except UsageError:
        own = None
    if own is None or own.name != name:
        raise UsageError(f"the text encoder of the run was {name}: give it with --text-encoder")
    return own


def _given(text: str, sha256: str, *, offline: bool) -> Path:
    if not text.startswith(HUB):
        return Path(text)
    repo, revision, filename = parse_hub_name(text)
    return weights_from_hub(repo, revision, filename, sha256, offline=offline).path


def _of_origin(manifest: Manifest, prefix: str, sha256: str, *, offline: bool) -> Path | None:
    """A file of the hub at the commit that the run took; None when it came from elsewhere."""
    origin = manifest.weights_origin
    if f"{prefix}repo" not in origin:
        return None
    repo, revision, filename = (
        str(origin[f"{prefix}{key}"]) for key in ("repo", "revision", "filename")
    )
    return weights_from_hub(repo, revision, filename, sha256, offline=offline).path

"""What a plan needs from disks beside itself; it travels to the workers."""

from dataclasses import dataclass
from pathlib import Path

from evalsuite.artifacts.hub import hub_folder
from evalsuite.artifacts.run_directory import Manifest
from evalsuite.config import ModelPreset, load_spec
from evalsuite.errors import DataError, UsageError
from evalsuite.models.foreign import is_foreign
from evalsuite.pipeline.weights import WeightsRequest, find_weights


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


@dataclass(frozen=True)
class RerunRequest:
    """Where to look for what a finished run was made of."""

    model: str | None = None
    """Preset, when the run's own is not known here."""
    weights: str | None = None
    guide_weights: Path | None = None
    text_encoder: Path | None = None
    offline: bool = False
    trust_code: bool = False


def materials_of(manifest: Manifest, request: RerunRequest) -> Materials:
    """What is needed to make samples of a run again; digests are checked when it is loaded.

    Raises:
        UsageError: something that cannot be found without an option.
        DataError: weights that are not here.
    """
    plan = manifest.plan
    weights: Path | None = None
    if is_foreign(plan.family):
        if not request.trust_code:
            raise UsageError(f"{plan.family} is code: look at it, then add --trust-remote-code")
        weights = Path(request.weights) if request.weights else None
    elif not plan.has_random_weights:
        weights = _weights_of(manifest, request)
    if plan.guide is not None and request.guide_weights is None:
        raise UsageError("the run has a guide: give its weights with --guide-weights")
    encoder = request.text_encoder
    if encoder is None and plan.text and plan.text.encoder and not plan.has_random_weights:
        spec = plan.text.encoder
        encoder = hub_folder(spec.repo, spec.revision, offline=request.offline)
    return Materials(
        weights=weights,
        guide=request.guide_weights,
        encoder=encoder,
        file_labels=manifest.file_labels,
        prompts=manifest.prompts,
        code_folder=Path.cwd(),
    )


def _weights_of(manifest: Manifest, request: RerunRequest) -> Path:
    if request.weights is not None and not request.weights.startswith("hub:"):
        return Path(request.weights)
    preset = load_spec(ModelPreset, request.model or manifest.model)
    found = find_weights(preset, WeightsRequest(request.weights, None, request.offline))
    if found.path is None:
        raise DataError(f"{manifest.model}: give the weights of the run with --weights")
    return found.path

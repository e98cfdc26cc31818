"""What the call of a diffusers pipeline takes, and its settings as plan fields."""

import importlib.util
import inspect
from dataclasses import dataclass
from typing import Any

from pydantic import Field, model_validator

from evalsuite.config import DtypeName, Frozen, Scalar
from evalsuite.errors import EnvironmentProblem, UsageError
from evalsuite.models.diffusers_folder import PipelineFolder
from evalsuite.models.protocol import Condition

OLDEST = (0, 40)
"""The first version of diffusers whose loaders take `dtype`."""
_CONDITIONS: dict[str, Condition] = {"class_labels": "class", "prompt": "text"}
_OTHER_INPUTS = ("strength", "mask_image", "control_image", "video", "num_frames")
"""Arguments that only pipelines with other conditions or other outputs have."""


class DiffusersSettings(Frozen):
    """Settings of any pipeline; absent ones are the pipeline call's own."""

    num_steps: int = Field(ge=1)
    guidance_scale: float | None = Field(default=None, ge=0)
    """As the pipeline means it: most guide only above 1."""
    dtype: DtypeName = "float32"
    """Of weights, noise and state alike, as diffusers has it."""
    vae_dtype: DtypeName = "float32"
    """Of the VAE; a pipeline hands its latents on in its own dtype."""

    @model_validator(mode="before")
    @classmethod
    def _vae_follows(cls, values: Any) -> Any:  # noqa: ANN401 - what pydantic was given
        if isinstance(values, dict) and "dtype" in values:
            return {"vae_dtype": values["dtype"], **values}
        return values

    @model_validator(mode="after")
    def _one_dtype(self) -> "DiffusersSettings":
        if self.vae_dtype != self.dtype:
            raise ValueError("vae_dtype follows dtype in a diffusers pipeline")
        return self


class GuidedSettings(DiffusersSettings):
    """Settings of a pipeline that takes a guidance scale."""

    guidance_scale: float = Field(ge=0)


class UnguidedSettings(DiffusersSettings):
    """Settings of a pipeline that takes none."""

    guidance_scale: None = None


@dataclass(frozen=True)
class PipelineCall:
    """What the call takes, with its own defaults.

    Attributes:
        condition: class labels or prompts.
        num_steps: default of `num_inference_steps`; None when it has to be given.
        takes_guidance: whether there is a guidance scale.
        guidance_scale: its default; None when it has to be given.
        takes_size: whether height and width can be asked.
        size: default (H, W), where the call states it.
        takes_negative_prompt: whether there is one.
        max_tokens: default of `max_sequence_length`; None without it.
    """

    condition: Condition
    num_steps: int | None
    takes_guidance: bool
    guidance_scale: float | None
    takes_size: bool
    size: tuple[int, int] | None
    takes_negative_prompt: bool
    max_tokens: int | None

    @property
    def settings_class(self) -> type[DiffusersSettings]:
        """Its settings as plan fields."""
        return GuidedSettings if self.takes_guidance else UnguidedSettings

    @property
    def settings(self) -> dict[str, Scalar | None]:
        """Its own defaults."""
        own = {"num_steps": self.num_steps, "guidance_scale": self.guidance_scale}
        return {name: value for name, value in own.items() if value is not None}


def pipeline_class(folder: PipelineFolder) -> Any:  # noqa: ANN401 - diffusers has no types
    """The pipeline's class, of diffusers or of the folder's own code.

    Raises:
        EnvironmentProblem: diffusers is not installed, or too old.
        UsageError: it has no such class, or the folder lacks its code.
    """
    diffusers = imported_diffusers()
    if folder.module is not None:
        return _own_class(folder, folder.module)
    kind: Any = getattr(diffusers, folder.class_name, None)
    if not (isinstance(kind, type) and issubclass(kind, diffusers.DiffusionPipeline)):
        raise UsageError(
            f"{folder.path.name}: diffusers {diffusers.__version__} has no pipeline"
            f" {folder.class_name}"
        )
    if getattr(kind, "_load_connected_pipes", False):
        raise UsageError(f"{folder.class_name} calls further pipelines, which is not supported")
    return kind


def imported_diffusers() -> Any:  # noqa: ANN401 - a module without types
    """The package, or one line on how to get it."""
    try:
        import diffusers
    except ImportError as error:
        raise EnvironmentProblem(
            "diffusers pipelines need diffusers: pip install 'evalsuite[diffusers]'"
        ) from error
    if tuple(int(part) for part in diffusers.__version__.split(".")[:2]) < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        raise EnvironmentProblem(
            f"diffusers {diffusers.__version__} is too old: install {wanted} or newer"
        )
    _be_quiet(diffusers)
    return diffusers


def read_call(kind: type[Any]) -> PipelineCall:
    """What `kind.__call__` takes.

    Raises:
        UsageError: a pipeline without class labels or prompts, or one that needs more than these.
    """
    parameters = inspect.signature(kind.__call__).parameters
    conditions = [word for name, word in _CONDITIONS.items() if name in parameters]
    needed = [
        name
        for name, parameter in parameters.items()
        if name not in {"self", *_CONDITIONS}
        and parameter.kind not in {parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL}
        and (name in _OTHER_INPUTS or parameter.default is parameter.empty)
    ]
    lacking = [
        name
        for name in ("num_inference_steps", "generator", "output_type")
        if name not in parameters
    ]
    if not conditions or needed or lacking:
        why = f"needs {needed[0]}" if needed else f"has no {(lacking or ['prompt'])[0]}"
        raise UsageError(
            f"{kind.__name__} {why}: pipelines from class labels or prompts to images are supported"
        )

    def number(name: str) -> Any:  # noqa: ANN401 - a default
        default = parameters[name].default if name in parameters else None
        return default if type(default) in {int, float} else None

    height, width = number("height"), number("width")
    return PipelineCall(
        condition=conditions[0],
        num_steps=number("num_inference_steps"),
        takes_guidance="guidance_scale" in parameters,
        guidance_scale=number("guidance_scale"),
        takes_size="height" in parameters and "width" in parameters,
        size=(height, width) if height and width else None,
        takes_negative_prompt="negative_prompt" in parameters,
        max_tokens=number("max_sequence_length"),
    )


def _be_quiet(diffusers: Any) -> None:  # noqa: ANN401 - a module without types
    """No progress bars, and no warnings about what is an error here or is not used."""
    loggers = [diffusers.utils.logging]
    if importlib.util.find_spec("transformers") is not None:
        import transformers

        loggers.append(transformers.utils.logging)
    for logger in loggers:
        logger.disable_progress_bar()
        logger.set_verbosity_error()


def _own_class(folder: PipelineFolder, module: str) -> type[Any]:
    """A class of the folder's own code, which is run; the user has allowed it."""
    from diffusers.utils.dynamic_modules_utils import get_class_from_dynamic_module

    file = f"{module}.py"
    if not (folder.path / file).is_file():
        raise UsageError(
            f"{folder.path.name} lacks {file}: code is not fetched from a hub, so download the"
            " repository and name its folder"
        )
    kind: type[Any] = get_class_from_dynamic_module(
        str(folder.path), module_file=file, class_name=folder.class_name, trust_remote_code=True
    )
    return kind

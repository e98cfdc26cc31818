"""The typed configuration tree: presets, extractors, references and plans, read from YAML.

Every class is frozen and refuses unknown keys. Defaults of a model live in its preset and nowhere
else; a `Plan` is what they become once an invocation's options are applied.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from evalsuite.errors import ConfigError, StorageError, UsageError, nearest

NUMERICS_VERSION = 1
"""Raised when a pinned pixel hash of the digits model changes on an unchanged machine."""

Scalar = bool | int | float | str
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Size = tuple[Annotated[int, Field(ge=1, le=16384)], Annotated[int, Field(ge=1, le=16384)]]
SolverName = Literal["euler", "heun", "heun_reuse", "adams"]
StepName = Literal["ode", "sde_mean", "sde", "sde_preserve"]
DtypeName = Literal["float32", "bfloat16"]


class Frozen(BaseModel):
    """Base of the tree: immutable, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LabelRule(Frozen):
    """How `sample_index` decides the class label."""

    rule: Literal["modulo", "blocked", "random", "file"] = "modulo"
    """modulo: index % classes. blocked: runs of `per_class` (upstream's order). random: seeded by
    (`seed`, index). file: one label for each index."""
    per_class: int | None = Field(default=None, ge=1)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    sha256: Sha256 | None = None
    """Of the labels of a file, as little-endian int64."""

    @model_validator(mode="after")
    def _only_own_fields(self) -> "LabelRule":
        wanted = {"blocked": "per_class", "random": "seed", "file": "sha256"}.get(self.rule)
        for name in ("per_class", "seed", "sha256"):
            if (getattr(self, name) is not None) != (name == wanted):
                raise ValueError(f"label rule {self.rule!r} and {name!r} do not fit")
        return self

    def describe(self) -> str:
        """The rule as the command line takes it."""
        detail = self.per_class or self.seed or (self.sha256 or "")[:8]
        return self.rule if self.rule == "modulo" else f"{self.rule}:{detail or 0}"


class SamplingSettings(Frozen):
    """Everything about the sampler that decides pixels."""

    solver: SolverName
    num_steps: int = Field(ge=1, le=100_000)
    """Solver intervals."""
    order: int | None = Field(default=None, ge=1, le=4)
    """Of `adams` only."""
    step: StepName = "ode"
    """Step function; others than `ode` belong to `euler`."""
    last_step: float | None = Field(default=None, gt=0, le=1)
    """Length of the last interval before the time shift; 1 / num_steps when absent."""
    timeshift: float = Field(default=1.0, ge=1e-4, le=1e4)
    """The s in t = u / (u + (1 - u) * s)."""
    guidance_scale: float = Field(ge=0)
    """uncond + s * (cond - uncond); 1 is off."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Times between which guidance acts; t = 0 is noise."""
    interval_ends: Literal["open", "closed"] = "open"
    skip_unguided: bool = True
    """Leave the unconditional half out where the scale is 1."""
    noise_scale: float = Field(default=1.0, gt=0)
    """Factor on the initial standard normal noise."""
    dtype: DtypeName = "float32"
    """Of the network's matrix products; state, noise and times are always float32."""

    @model_validator(mode="after")
    def _consistent(self) -> "SamplingSettings":
        low, high = self.guidance_interval
        if not 0 <= low < high <= 1:
            raise ValueError("guidance_interval must be LO HI with 0 <= LO < HI <= 1")
        if (self.order is not None) != (self.solver == "adams"):
            raise ValueError(f"order is for solver 'adams' alone, and it needs one ({self.solver})")
        if self.step != "ode" and self.solver != "euler":
            raise ValueError(f"step {self.step!r} is for solver 'euler' alone")
        return self


class Plan(Frozen):
    """Everything that decides pixels, resolved. The sample count is not in it."""

    numerics_version: int
    family: str
    network: dict[str, Scalar]
    weights_sha256: Sha256
    ema: str
    num_classes: int = Field(ge=1)
    labels: LabelRule
    classes: tuple[int, ...] | None
    """The classes that the label rule chooses from; all when absent."""
    size: Size
    sampling: SamplingSettings
    first_seed: int = Field(ge=0, lt=2**32)
    batch_size: int = Field(ge=1, le=65536)
    uint8_rule: Literal["half_up"]

    @property
    def plan_id(self) -> str:
        """SHA-256 of the canonical JSON."""
        return hashlib.sha256(canonical_json(self.model_dump(mode="json"))).hexdigest()

    @property
    def label_classes(self) -> tuple[int, ...]:
        """The classes that labels are drawn from."""
        return self.classes if self.classes is not None else tuple(range(self.num_classes))


class WeightsSource(Frozen):
    """Where a model's or an extractor's weights are."""

    file: str
    """Relative to the YAML file."""
    sha256: Sha256
    ema: str = "averaged"
    """Which of a checkpoint's weights these are."""


class EvaluationDefaults(Frozen):
    """What `run` scores against when nothing else is asked."""

    num_samples: int = Field(ge=1)
    reference: str
    extractor: str


class KnownRate(Frozen):
    """A measured speed, to estimate time before anything has run."""

    device: str
    seconds_per_evaluation: float = Field(gt=0)
    """Seconds of one worker for one network evaluation of one image."""
    source: str


class ModelPreset(Frozen):
    """A named model: architecture, weights, default sampling, evaluation, published results."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    title: str
    description: str
    family: str
    licence: str
    network: dict[str, Scalar]
    weights: WeightsSource
    num_classes: int = Field(ge=1)
    class_names: tuple[str, ...] | None = None
    size: Size
    sampling: SamplingSettings
    batch_size: int = Field(ge=1)
    uint8_rule: Literal["half_up"] = "half_up"
    evaluation: EvaluationDefaults
    known_rates: tuple[KnownRate, ...] = ()
    published: tuple[dict[str, Scalar], ...] = ()
    card: str | None = None
    path: Path = Field(exclude=True)
    """The file that this was read from."""


class ExtractorSpec(Frozen):
    """A named extractor: family, weights and the fields that decide its features."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    title: str
    short: str
    """Prefix of metric names in tables, so that no number is mistaken for another's."""
    family: str
    version: int = Field(ge=1)
    weights: WeightsSource
    input_size: Size | None = None
    """The only size that it takes; any when absent."""
    resize: str
    precision: Literal["float32"] = "float32"
    batch_size: int = Field(ge=1)
    pool_dim: int = Field(ge=1)
    spatial_dim: int | None = None
    num_classes: int | None = None
    licence: str
    card: str | None = None
    path: Path = Field(exclude=True)

    @property
    def extractor_id(self) -> str:
        """Name and the hash of all that decides features."""
        fields = self.model_dump(
            mode="json",
            include={"family", "version", "resize", "precision", "batch_size", "input_size"},
        )
        digest = hashlib.sha256(canonical_json({**fields, "weights": self.weights.sha256}))
        return f"{self.name}-{digest.hexdigest()[:8]}"


class ReferenceImages(Frozen):
    """The images that a reference holds."""

    count: int = Field(ge=0)
    size: Size
    images_sha256: Sha256


class ReferenceSpec(Frozen):
    """The sidecar of a reference: what it is and where it came from."""

    name: str
    description: str
    file: str
    sha256: Sha256
    images: ReferenceImages
    statistics_count: int = Field(ge=2)
    """Images behind the stored moments."""
    extractor: str
    extractor_id: str
    """Name and hash of all that decides its features; see `ExtractorSpec.extractor_id`."""
    extractor_sha256: Sha256
    source: str
    preprocessing: str
    split: str
    program: str
    not_comparable_with: str
    path: Path = Field(exclude=True)


_Spec = TypeVar("_Spec", ModelPreset, ExtractorSpec, ReferenceSpec)
_FOLDERS: Mapping[type[BaseModel], tuple[str, str]] = {
    ModelPreset: ("configs/models", "model"),
    ExtractorSpec: ("configs/extractors", "extractor"),
    ReferenceSpec: ("reference_stats", "reference"),
}


def data_root() -> Path:
    """The folder that holds `configs/` and `reference_stats/`: in the wheel, or the checkout."""
    package = Path(__file__).resolve().parent
    packaged = package / "_data"
    return packaged if packaged.is_dir() else package.parent


def canonical_json(value: object) -> bytes:
    """The bytes that are hashed: sorted keys, no spaces, shortest floats, no NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    ).encode()


def names_of(kind: type[_Spec]) -> list[str]:
    """The names of all presets, extractors or references that travel with the package."""
    folder, _ = _FOLDERS[kind]
    return sorted(path.stem for path in (data_root() / folder).glob("*.yaml"))


def load_spec(kind: type[_Spec], name_or_path: str) -> _Spec:
    """Read a preset, extractor or reference by name, or from a YAML file given by path.

    Raises:
        UsageError: no such name or file.
        ConfigError: the file is not valid; the line names the key and the nearest known one.
    """
    folder, noun = _FOLDERS[kind]
    if name_or_path.endswith((".yaml", ".yml")):
        path = Path(name_or_path)
        if not path.is_file():
            raise UsageError(f"{noun} file {name_or_path!r} does not exist")
    else:
        names = names_of(kind)
        if name_or_path not in names:
            raise UsageError(f"unknown {noun} {name_or_path!r}: {nearest(name_or_path, names)}")
        path = data_root() / folder / f"{name_or_path}.yaml"
    return parse_spec(kind, read_yaml(path), path)


def read_yaml(path: Path) -> dict[str, Any]:
    """A mapping from a YAML file, with the safe loader."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping of keys")
    return content


def parse_spec(kind: type[_Spec], content: Mapping[str, Any], path: Path) -> _Spec:
    """Validate the content of `path`; every fault becomes one line."""
    if "path" in content:
        raise ConfigError(f"{path}: unknown key 'path': {nearest('path', kind.model_fields)}")
    try:
        return kind.model_validate({**content, "path": path.resolve()})
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error, kind)}") from error


def explain(error: ValidationError, kind: type[BaseModel]) -> str:
    """The first faults of a validation in one line, with the nearest name for unknown keys."""
    parts = []
    for fault in error.errors()[:3]:
        where = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            known = _known_keys(kind, fault["loc"][:-1])
            parts.append(f"unknown key {where!r}: {nearest(str(fault['loc'][-1]), known)}")
        else:
            message = fault["msg"].removeprefix("Value error, ")
            parts.append(f"{where}: {message}" if where else message)
    return "; ".join(parts)


def _known_keys(kind: type[BaseModel], loc: Iterable[int | str]) -> list[str]:
    """Field names at a place in the tree."""
    for part in loc:
        field = kind.model_fields.get(str(part))
        nested = field.annotation if field else None
        if not (isinstance(nested, type) and issubclass(nested, BaseModel)):
            return []
        kind = nested
    return [name for name, field in kind.model_fields.items() if not field.exclude]

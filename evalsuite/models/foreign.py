"""Models that bring their own sampler: a researcher's class, or a diffusers pipeline.

Their code runs only when the user names it and says so (`--trust-remote-code`).
"""

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from evalsuite.config import EvaluationDefaults, ModelPreset, canonical_json
from evalsuite.errors import ConfigError, DataError, UsageError
from evalsuite.models.protocol import SampledModel

PYTHON, DIFFUSERS = "python:", "diffusers:"
_TRUST = "its code would run here: look at it, then add --trust-remote-code"


@dataclass(frozen=True)
class ForeignModel:
    """A model that was found, with all that a plan needs to know of it."""

    family: str
    preset: ModelPreset
    settings_class: type[BaseModel]
    source_sha256: str | None = None
    code_folder: Path | None = None
    """Where its module is imported from, here and in workers."""
    pipeline: Path | None = None
    """Folder of a diffusers pipeline."""
    needs_weights: bool = False


def is_foreign(name: str) -> bool:
    """Whether a model or family name is a class's or a pipeline's."""
    return name.startswith((PYTHON, DIFFUSERS))


def foreign_model(
    name: str,
    folder: Path,
    trust_code: bool,
    preset: ModelPreset | None = None,
    offline: bool = False,
) -> ForeignModel:
    """Find a model by `python:package.module:Class` or `diffusers:PATH_OR_REPOSITORY`.

    Args:
        name: as above.
        folder: where modules are looked for first.
        trust_code: whether the user allowed code to run.
        preset: the preset whose family this is, when there is one.
        offline: look nothing up on a hub.

    Raises:
        UsageError: code that was not allowed, or no such class.
        ConfigError: a class that does not have the shape of `SampledModel`.
    """
    if name.startswith(DIFFUSERS):
        from evalsuite.models.diffusers_pipeline import find_pipeline

        return find_pipeline(
            name.removeprefix(DIFFUSERS), trust_code=trust_code, offline=offline, preset=preset
        )
    if not trust_code:
        raise UsageError(f"--model {name}: {_TRUST}")
    cls = _import_class(name, folder)
    settings = _settings_class(cls, name)
    own = preset or _preset_of(cls, name, folder)
    return ForeignModel(
        family=name,
        preset=own,
        settings_class=settings,
        source_sha256=source_sha256(cls),
        code_folder=folder.resolve(),
        needs_weights=bool(getattr(cls, "needs_weights", True)),
    )


def build_foreign(
    family: str,
    code_folder: Path | None,
    source: str | None,
    network: Mapping[str, Any],
    negative_prompt: str = "",
) -> SampledModel:
    """An instance for a worker, after checking that its code is the plan's.

    `negative_prompt` is for pipelines; a class of one's own has such things in its settings.

    Raises:
        DataError: the code has changed since the plan was made.
    """
    if family.startswith(DIFFUSERS):
        from evalsuite.models.diffusers_pipeline import DiffusersModel

        return DiffusersModel(network, negative_prompt)
    cls = _import_class(family, code_folder or Path.cwd())
    if source_sha256(cls) != source:
        raise DataError(f"the code of {family} is not the plan's: it has changed since")
    model: SampledModel = cls()
    return model


def source_sha256(cls: type[Any]) -> str:
    """SHA-256 of a class's module, or of all Python files of its package by name."""
    path = Path(inspect.getfile(cls))
    package = cls.__module__.rpartition(".")[0]
    if not package:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    top = importlib.import_module(package.partition(".")[0])
    root = Path(str(top.__file__)).parent if top.__file__ else path.parent
    files = {
        file.relative_to(root).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(root.rglob("*.py"))
    }
    return hashlib.sha256(canonical_json(files)).hexdigest()


def _import_class(name: str, folder: Path) -> type[Any]:
    module_name, colon, class_name = name.removeprefix(PYTHON).partition(":")
    if not colon or not module_name or not class_name:
        raise UsageError(f"--model {name!r} is not python:package.module:Class")
    entry = str(folder.resolve())
    if entry not in sys.path:
        sys.path.insert(0, entry)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UsageError(f"--model {name}: cannot import {module_name}: {error}") from error
    cls = getattr(module, class_name, None)
    if not isinstance(cls, type):
        raise UsageError(f"--model {name}: {module_name} has no class {class_name!r}")
    return cls


def _settings_class(cls: type[Any], name: str) -> type[BaseModel]:
    """The class's Settings, once its shape has been checked."""
    for method in ("load", "sample"):
        if not callable(getattr(cls, method, None)):
            raise ConfigError(f"{name} has no method {method}(): see evalsuite.models.protocol")
    settings = getattr(cls, "Settings", None)
    if not (isinstance(settings, type) and issubclass(settings, BaseModel)):
        raise ConfigError(f"{name} has no pydantic class Settings: see evalsuite.models.protocol")
    if getattr(cls, "condition", None) not in {"class", "text"}:
        raise ConfigError(f"{name}.condition must be 'class' or 'text'")
    return settings


def _preset_of(cls: type[Any], name: str, folder: Path) -> ModelPreset:
    """A preset from what the class says about itself."""
    missing = [n for n in ("size", "batch_size") if not hasattr(cls, n)]
    if cls.condition == "class" and not hasattr(cls, "num_classes"):
        missing.append("num_classes")
    if missing:
        raise ConfigError(
            f"{name} lacks {', '.join(missing)}: add them to the class, or use a YAML"
        )
    return ModelPreset(
        name=f"{cls.__module__.rpartition('.')[2]}-{cls.__name__}".lower().replace("_", "-"),
        title=(cls.__doc__ or cls.__name__).strip().splitlines()[0],
        description=(cls.__doc__ or "").strip(),
        family=name,
        licence="unstated",
        num_classes=cls.num_classes if cls.condition == "class" else None,
        size=cls.size,
        batch_size=cls.batch_size,
        settings={},
        evaluation=EvaluationDefaults(num_samples=50_000),
        path=folder / "none.yaml",
    )

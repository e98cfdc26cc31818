"""Models that bring their own sampler: a researcher's class, or a diffusers pipeline.

Their code runs only when the user names it and says so (`--trust-remote-code`).
"""

import ast
import contextlib
import hashlib
import importlib
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ValidationError

from evalsuite.config import EvaluationDefaults, ModelPreset, Scalar, canonical_json, explain
from evalsuite.errors import ConfigError, DataError, EvalsuiteError, UsageError
from evalsuite.models.protocol import SampledModel

PYTHON, DIFFUSERS = "python:", "diffusers:"
Pin = Callable[[str, str | None], str | None]
"""The commit of a repository that stands for the revision that was asked."""
_OF_OUR_MODELS = ("network", "sampling", "text")
"""Keys of a preset that only models of the registry read."""
_CODE_SUFFIXES = (*SOURCE_SUFFIXES, *EXTENSION_SUFFIXES)
_INSTALLED = {"site-packages", "dist-packages"}
_OURS = Path(__file__).resolve().parents[1]
_SAMPLE_AGAIN = "`evalsuite --debug sample` with the same plan"
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
    origin: Mapping[str, Scalar] = field(default_factory=dict)
    """Of a pipeline that came from a hub: `repo`, `revision`, and what was `asked`."""


def is_foreign(name: str) -> bool:
    """Whether a model or family name is a class's or a pipeline's."""
    return name.startswith((PYTHON, DIFFUSERS))


def foreign_model(
    name: str,
    folder: Path,
    trust_code: bool,
    preset: ModelPreset | None = None,
    offline: bool = False,
    pinned: Pin | None = None,
) -> ForeignModel:
    """Find a model by `python:package.module:Class` or `diffusers:PATH_OR_REPOSITORY`.

    Args:
        name: as above.
        folder: where modules are looked for first.
        trust_code: whether the user allowed code to run.
        preset: the preset whose family this is, when there is one.
        offline: look nothing up on a hub.
        pinned: which commit of a repository a lock file holds, where there is one.

    Raises:
        UsageError: code that was not allowed or fails when it is imported, or no such class.
        ConfigError: a class that does not have the shape of `SampledModel`, or a preset that does
            not fit it.
    """
    if name.startswith(DIFFUSERS):
        from evalsuite.models.diffusers_pipeline import find_pipeline

        return find_pipeline(
            name.removeprefix(DIFFUSERS),
            trust_code=trust_code,
            offline=offline,
            preset=preset,
            pinned=pinned,
        )
    if not trust_code:
        raise UsageError(f"--model {name}: {_TRUST}")
    if preset is not None:
        refuse_keys_of_our_models(preset)
    cls = import_class(name, folder)
    settings = _settings_class(cls, name)
    if preset is not None:
        _check_num_classes(preset, cls, name)
    return ForeignModel(
        family=name,
        preset=preset or _preset_of(cls, name, folder),
        settings_class=settings,
        source_sha256=source_sha256(name, cls, folder),
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
    folder = code_folder or Path.cwd()
    cls = import_class(family, folder)
    if source_sha256(family, cls, folder) != source:
        raise DataError(f"the code of {family} is not the plan's: it has changed since")
    with users_code(family, folder, "its constructor"):
        model: SampledModel = cls()
    return model


@contextlib.contextmanager
def users_code(
    family: str, folder: Path | None, part: str, hint: str = _SAMPLE_AGAIN
) -> Iterator[None]:
    """A block in which a user's class runs: its exceptions become one line with file and line.

    Errors of ours and a GPU's want of memory pass. A pipeline's exceptions pass too: its code is
    installed, or ours.

    Args:
        family: of the plan.
        folder: that its module is imported from.
        part: what runs, such as `sample()`.
        hint: how to see the traceback, for the line.

    Raises:
        DataError: the class raised something.
    """
    try:
        yield
    except (EvalsuiteError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if not family.startswith(PYTHON):
            raise
        fault = _fault_of(error, (folder or Path.cwd()).resolve())
        raise DataError(
            f"{family} failed in {part}: {fault} ({hint} shows the traceback)"
        ) from error


def source_sha256(name: str, cls: type[Any], folder: Path) -> str:
    """SHA-256 over the code of a class: the same in every process that finds the same files.

    Counted are the module that `name` says, the one that defines the class, and all that `import`
    statements in them reach, in functions too, within `folder` or the folder that they were found
    in: modules, and packages whole. Of what is installed only the class's own package counts.

    Args:
        name: `python:package.module:Class`, which has been imported.
        cls: that class.
        folder: where modules are looked for first.
    """
    own = dict.fromkeys((name.removeprefix(PYTHON).partition(":")[0], cls.__module__))
    homes = {module: home for module in own if (home := _home_of(module)) is not None}
    roots = dict.fromkeys([folder.resolve(), *filter(_is_not_installed, homes.values())])
    waiting = [(home, file) for module, home in homes.items() for file in _files_of(module, home)]
    digests: dict[str, str] = {}
    while waiting:
        root, file = waiting.pop()
        relative = file.relative_to(root).as_posix()
        if relative in digests:
            continue
        digests[relative] = hashlib.sha256(file.read_bytes()).hexdigest()
        for imported in _imported_names(file, file.relative_to(root).parent.parts):
            waiting += _located(imported, roots)
    return hashlib.sha256(canonical_json(digests)).hexdigest()


def refuse_keys_of_our_models(preset: ModelPreset) -> None:
    """Raise ConfigError for keys of a preset that a model with its own sampler does not read."""
    for key in _OF_OUR_MODELS:
        if getattr(preset, key):
            raise ConfigError(
                f"{preset.path}: `{key}` has no effect on a model of family {preset.family}: take"
                " it out; what its sampler takes goes under `settings`"
            )


def _home_of(module: str) -> Path | None:
    """The folder of `sys.path` that an imported module lies in; None for one without a file."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return None
    path = Path(file)
    return path.parents[module.count(".") + (path.stem == "__init__")]


def _is_not_installed(root: Path) -> bool:
    return root.name not in _INSTALLED and str(root) not in sysconfig.get_paths().values()


def _located(name: str, roots: Mapping[Path, None]) -> list[tuple[Path, Path]]:
    """The files of a module in the first folder that has it; evalsuite's own are not counted."""
    if name.partition(".")[0] == "evalsuite":
        return []
    for root in roots:
        files = _files_of(name, root)
        if files:
            return [(root, file) for file in files]
    return []


def _files_of(name: str, root: Path) -> list[Path]:
    """The file of a module in a folder, or all code of the package that it is in."""
    place = root
    for part in name.split("."):
        place = place / part
        if (place / "__init__.py").is_file():
            files = [path for path in place.rglob("*") if path.name.endswith(_CODE_SUFFIXES)]
            return sorted(file for file in files if file.is_file())
        files = [place.with_name(part + suffix) for suffix in _CODE_SUFFIXES]
        found = [file for file in files if file.is_file()]
        if found:
            return found
    return []


def _imported_names(file: Path, package: Sequence[str]) -> Iterator[str]:
    """Full names in the `import` statements of a file, wherever they stand in it."""
    if file.suffix not in SOURCE_SUFFIXES:
        return
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # it counts, and cannot be imported
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = (*above, node.module) if node.module else above
            yield from (".".join((*base, alias.name)) for alias in node.names)


def import_class(name: str, folder: Path, flag: str = "--model") -> type[Any]:
    """The class of `python:package.module:Class`, whose module is imported.

    Args:
        name: as above.
        folder: where modules are looked for first.
        flag: the option that named it, for the line.

    Raises:
        UsageError: it fails when it is imported, or there is no such class.
    """
    module_name, colon, class_name = name.removeprefix(PYTHON).partition(":")
    if not colon or not module_name or not class_name:
        raise UsageError(f"{flag} {name!r} is not python:package.module:Class")
    entry = str(folder.resolve())
    if entry not in sys.path:
        sys.path.insert(0, entry)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        fault = _fault_of(error, folder.resolve())
        if isinstance(error, ModuleNotFoundError) and fault.startswith(type(error).__name__):
            fault = f"{error}; it is looked for beside the preset, or else in the working directory"
        raise UsageError(f"{flag} {name}: cannot import {module_name}: {fault}") from error
    cls = getattr(module, class_name, None)
    if not isinstance(cls, type):
        raise UsageError(f"{flag} {name}: {module_name} has no class {class_name!r}")
    return cls


def _fault_of(error: BaseException, folder: Path) -> str:
    """What went wrong in a user's code, with the file and the line where there is one."""
    said = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError) and error.filename:
        place = _shown(Path(error.filename), folder)
        return f"{place}, line {error.lineno}: {type(error).__name__}: {error.msg}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if _is_users(frame.filename):
            return f"{_shown(Path(frame.filename), folder)}, line {frame.lineno}: {said}"
    return said


def _is_users(filename: str) -> bool:
    """Whether a file is neither Python's own, nor ours, nor installed."""
    path = Path(filename)
    is_pythons = filename.startswith("<") or path.is_relative_to(sysconfig.get_path("stdlib"))
    return (
        not is_pythons
        and not path.is_relative_to(_OURS)
        and not _INSTALLED.intersection(path.parts)
    )


def _shown(path: Path, folder: Path) -> Path:
    return path.relative_to(folder) if path.is_relative_to(folder) else path


def _check_num_classes(preset: ModelPreset, cls: type[Any], name: str) -> None:
    """Raise ConfigError unless the preset's classes are the class's."""
    if cls.condition == "text":
        if preset.num_classes is not None:
            raise ConfigError(f"{preset.path}: num_classes is set, and {name} takes prompts")
        return
    own = getattr(cls, "num_classes", preset.num_classes)
    if own is None:
        raise ConfigError(f"{preset.path}: num_classes is missing: {name} takes class labels")
    if preset.num_classes != own:
        raise ConfigError(f"{preset.path}: num_classes is {preset.num_classes}; {name} has {own}")


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
    try:
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
    except ValidationError as error:
        raise ConfigError(f"{name}: {explain(error, ModelPreset)}") from error

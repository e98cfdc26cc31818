"""Reading presets from YAML: by name or path, with `extends`, every fault in one line."""

import os
import typing
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from evalsuite.config.benchmarks import BenchmarkSpec
from evalsuite.config.jobs import JobSpec
from evalsuite.config.other_solver import of_other_solver, rebased, stated_anew
from evalsuite.config.presets import ExtractorSpec, ModelPreset
from evalsuite.config.protocols import ProtocolSpec
from evalsuite.config.references import ReferenceSpec
from evalsuite.config.sampling import SamplingSettings
from evalsuite.config.selftests import SelftestSpec
from evalsuite.config.sweeps import SweepSpec
from evalsuite.errors import ConfigError, StorageError, UsageError, nearest

_Spec = TypeVar(
    "_Spec",
    ModelPreset,
    ExtractorSpec,
    ReferenceSpec,
    ProtocolSpec,
    SelftestSpec,
    JobSpec,
    BenchmarkSpec,
    SweepSpec,
)
_LONGEST = 60  # characters of a wrong value that an error line repeats
_NEVER_INHERITED = ("name", "card", "parameters", "known_rates", "published", "settings_are")
"""What was counted, measured or claimed of one model is not true of another that extends it."""
_PATHS = {"": ("card",), "weights": ("file",), "text": ("prompts", "folder")}
"""The keys of a model that hold paths, by their section."""
_OF_PIPELINES = "diffusers:"
_FOLDERS: Mapping[type[BaseModel], tuple[str, str]] = {
    ModelPreset: ("configs/models", "model"),
    ExtractorSpec: ("configs/extractors", "extractor"),
    ReferenceSpec: ("reference_stats", "reference"),
    ProtocolSpec: ("configs/protocols", "protocol"),
    SelftestSpec: ("configs/selftests", "self-test"),
    JobSpec: ("jobs", "job spec"),
    BenchmarkSpec: ("configs/benchmarks", "benchmark"),
    SweepSpec: ("configs/sweeps", "sweep"),
}


def data_root() -> Path:
    """The folder that holds `configs/` and `reference_stats/`: in the wheel, or the checkout."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "_data"
    return packaged if packaged.is_dir() else package.parent


def names_of(kind: type[_Spec]) -> list[str]:
    """The names of all presets of a kind that travel with the package."""
    folder, _ = _FOLDERS[kind]
    return sorted(path.stem for path in (data_root() / folder).glob("*.yaml"))


def load_spec(kind: type[_Spec], name_or_path: str) -> _Spec:
    """Read a preset of any kind by name, or from a YAML file given by path.

    A model's file with `extends: NAME` or `extends: OTHER.yaml` changes that one: mappings are
    merged key by key, lists are replaced, and what comes with a solver changes with it. Claims of
    the base (its name, parameters, measured rates, published results and whether settings are
    published) are not taken over.

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
    content = read_yaml(path)
    if kind is ModelPreset and "extends" in content:
        content = _extended(content, path, ())
    return parse_spec(kind, content, path)


def given_as(spec: _Spec) -> str:
    """What `load_spec` takes to read the same preset again: its name, or the path of its file."""
    ours = spec.path.parent == data_root() / _FOLDERS[type(spec)][0]
    return spec.path.stem if ours else str(spec.path)


def _extended(content: dict[str, Any], path: Path, below: tuple[Path, ...]) -> dict[str, Any]:
    """A model's `content` laid over the file that its `extends` names; see `_laid_over`."""
    if "extends" not in content:
        return content
    base_path = _base_path(content["extends"], path)
    above = (*below, path.resolve())
    if base_path in above:
        raise ConfigError(f"{path}: extends {content['extends']!r} comes back to itself")
    base = _extended(read_yaml(base_path), base_path, above)
    own = {key: value for key, value in content.items() if key != "extends"}
    sampling = own.get("sampling")
    stated = sampling if isinstance(sampling, dict) else {}
    turned = rebased(base, stated.get("solver"))
    changed = {*_keys({k: v for k, v in own.items() if k != "sources"}), *_changed(base, turned)}
    inherited = _inheritable(turned, own, changed, base_path.parent)
    return _laid_over(_without(inherited, stated_anew(turned, stated)), own)


def _changed(base: Mapping[str, Any], turned: Mapping[str, Any]) -> Iterator[str]:
    """The settings that another solver has changed."""
    before, after = base.get("sampling"), turned.get("sampling")
    if isinstance(before, dict) and isinstance(after, dict):
        yield from (name for name in after if after[name] != before.get(name))


def _without(inherited: dict[str, Any], stated: Collection[str]) -> dict[str, Any]:
    """What is inherited, where no solver brings another value of a setting that is `stated`."""
    entries = inherited.get("with_solver")
    if not isinstance(entries, dict) or not all(isinstance(e, dict) for e in entries.values()):
        return inherited
    left = {
        solver: {name: value for name, value in entry.items() if name not in stated}
        for solver, entry in entries.items()
    }
    return {**inherited, "with_solver": left}


def _base_path(base: object, path: Path) -> Path:
    if not isinstance(base, str):
        raise ConfigError(f"{path}: extends must be the name or path of a model")
    if base.endswith((".yaml", ".yml")):
        found = (path.parent / base).resolve()
        if not found.is_file():
            raise ConfigError(f"{path}: extends {base!r}: there is no such file")
        return found
    known = names_of(ModelPreset)
    if base not in known:
        raise ConfigError(f"{path}: extends {base!r}: {nearest(base, known)}")
    return (data_root() / _FOLDERS[ModelPreset][0] / f"{base}.yaml").resolve()


def _inheritable(
    base: dict[str, Any], own: dict[str, Any], changed: Collection[str], folder: Path
) -> dict[str, Any]:
    """What a file takes over from its base, which lies in `folder`.

    Left out are claims about the base alone, the sources of settings that are `changed`, and the
    base's weights when the file names its own: only which EMA to take stays.
    """
    kept = {key: value for key, value in base.items() if key not in _NEVER_INHERITED}
    kept = rooted(kept, folder)
    own_weights = own.get("weights")
    if isinstance(own_weights, dict) and own_weights.keys() & {"file", "places"}:
        inherited = kept.pop("weights", None)
        if isinstance(inherited, dict) and "ema" in inherited:
            kept["weights"] = {"ema": inherited["ema"]}
    if isinstance(kept.get("sources"), dict):
        kept["sources"] = {k: v for k, v in kept["sources"].items() if k not in changed}
    return kept


def _keys(section: Mapping[str, Any]) -> Iterator[str]:
    """The keys of a mapping and of those inside it."""
    for key, value in section.items():
        yield key
        if isinstance(value, dict):
            yield from _keys(value)


def rooted(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A model's content with its paths absolute, so that it means the same in any file.

    In YAML they are relative to their own file, which lies in `folder`. Links stay as they are: a
    hub's cache links an index to a file of another name, away from its shards. A pipeline's family
    names a folder where there is one, and a repository of a hub elsewhere.
    """
    moved = dict(content)
    for section, names in _PATHS.items():
        if isinstance(moved.get(section), dict):
            moved[section] = _absolute(moved[section], names, folder)
    moved = _absolute(moved, _PATHS[""], folder)
    kind, colon, name = str(moved.get("family", "")).partition(":")
    if kind + colon == _OF_PIPELINES and (folder / name).is_dir():
        moved["family"] = kind + colon + _lasting(folder / name)
    return moved


def _absolute(section: dict[str, Any], names: Iterable[str], folder: Path) -> dict[str, Any]:
    given = {name: section[name] for name in names if isinstance(section.get(name), str)}
    return {**section, **{name: _lasting(folder / path) for name, path in given.items()}}


def _lasting(path: Path) -> str:
    """A path that is absolute, without following links."""
    return os.path.normpath(path.absolute())


def _laid_over(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """`own` over `base`: mappings are merged key by key, everything else is replaced."""
    merged = dict(base)
    for key, value in own.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _laid_over(merged[key], value) if both else value
    return merged


class _UniqueKeys(yaml.SafeLoader):
    """The safe loader, which refuses a key that is given twice instead of taking the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node."""
        keys = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        names = Counter(key.value for key in keys if isinstance(key, yaml.ScalarNode))
        twice = {name for name, count in names.items() if count > 1}
        if twice:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {min(twice)!r} is given twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """A mapping from a YAML file, with the safe loader."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping of keys")
    return content


def parse_spec(kind: type[_Spec], content: Mapping[str, Any], path: Path) -> _Spec:
    """Validate the content of `path`; every fault becomes one line."""
    if "path" in content:
        raise ConfigError(f"{path}: unknown key 'path': {nearest('path', kind.model_fields)}")
    try:
        spec = kind.model_validate({**content, "path": path.resolve()})
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error, kind)}") from error
    if isinstance(spec, ModelPreset):
        _check_with_solver(spec, path)
    return spec


def _check_with_solver(preset: ModelPreset, path: Path) -> None:
    """Raise ConfigError unless what comes with each other solver makes settings."""
    own = preset.sampling
    for solver, entry in preset.with_solver.items():
        where = f"{path}: with_solver.{solver}"
        if "solver" in entry:
            raise ConfigError(f"{where}: it cannot hold 'solver'")
        if own is None or solver == own.solver:
            why = "it is the preset's own solver" if own else "there is no `sampling`"
            raise ConfigError(f"{where}: {why}, so nothing comes with it")
        fields = {**own.model_dump(), "solver": solver}
        try:
            SamplingSettings.model_validate(
                fields | of_other_solver({"with_solver": {solver: entry}}, solver)
            )
        except ValidationError as error:
            raise ConfigError(f"{where}: {explain(error, SamplingSettings)}") from error


def explain(error: ValidationError, kind: type[BaseModel]) -> str:
    """Three faults of a validation in one line; unknown keys come first, with the nearest name."""
    parts = []
    faults = [fault for fault in error.errors() if not _follows(fault, error.errors())]
    faults.sort(key=lambda fault: fault["type"] != "extra_forbidden")
    for fault in faults[:3]:
        where = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            known = _known_keys(kind, fault["loc"][:-1])
            known += ["extends"] if known and kind is ModelPreset and len(fault["loc"]) == 1 else []
            parts.append(f"unknown key {where!r}: {nearest(str(fault['loc'][-1]), known)}")
        else:
            loc = fault["loc"]
            if fault["type"] == "missing" and loc and isinstance(loc[-1], int):  # of a tuple
                where = ".".join(str(part) for part in loc[:-1])
            parts.append(f"{where}: {_in_words(fault)}" if where else _in_words(fault))
    return "; ".join(parts)


def _follows(fault: ErrorDetails, faults: Sequence[ErrorDetails]) -> bool:
    """Whether a list is only too short because entries of it are wrong, which pydantic drops."""
    loc = fault["loc"]
    return fault["type"] == "too_short" and any(
        len(other["loc"]) > len(loc) and other["loc"][: len(loc)] == loc for other in faults
    )


def _in_words(fault: ErrorDetails) -> str:
    """One fault, with the value that was given and what is taken instead."""
    given, context = _shown(fault["input"]), fault.get("ctx", {})
    match fault["type"]:
        case "tuple_type" | "list_type":
            value = fault["input"]
            wanted = f": write [{value}]" if isinstance(value, str) and "," in value else ""
            return f"{given} is no list in brackets{wanted}"
        case "missing" if fault["loc"] and isinstance(fault["loc"][-1], int):
            return f"{given} has too few entries"
        case "too_long" | "too_short":
            limit = context.get("max_length", context.get("min_length"))
            return f"{given} has {context['actual_length']} entries, not {limit}"
        case "literal_error":
            return f"{given} is not {context['expected']}"
        case kind if kind in _TYPES:
            return f"{given} is {_TYPES[kind]}"
        case kind if kind in _LIMITS:
            key, words = _LIMITS[kind]
            return f"{given} is out of range: it must be {words} {_plain(context[key])}"
    return fault["msg"].removeprefix("Value error, ")


_TYPES = {
    **dict.fromkeys(("bool_parsing", "bool_type"), "neither true nor false"),
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float"), "no whole number"),
    **dict.fromkeys(("float_parsing", "float_type"), "no number"),
    "string_type": "no text",
}
_LIMITS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "more than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
}


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _plain(limit: object) -> str:
    return f"{limit:g}" if isinstance(limit, float) else str(limit)


def _known_keys(kind: type[BaseModel], loc: Iterable[int | str]) -> list[str]:
    """Field names at a place in the tree."""
    for part in loc:
        if isinstance(part, int):  # a place in a list, whose entries the field's type describes
            continue
        nested = _nested(kind.model_fields[part].annotation) if part in kind.model_fields else None
        if nested is None:
            return []
        kind = nested
    return [name for name, field in kind.model_fields.items() if not field.exclude]


def _nested(annotation: object) -> type[BaseModel] | None:
    """The class of the tree inside `X`, `X | None` or `tuple[X, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_nested(argument) for argument in typing.get_args(annotation))
    return next((kind for kind in found if kind is not None), None)

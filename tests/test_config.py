"""The configuration tree: unknown keys, floats from YAML, immutability, identity of a plan."""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from evalsuite.config import (
    BenchmarkSpec,
    ExtractorSpec,
    LabelRule,
    ModelPreset,
    Plan,
    ReferenceSpec,
    SamplingSettings,
    canonical_json,
    data_root,
    explain,
    load_spec,
    names_of,
    parse_json,
    parse_spec,
)
from evalsuite.errors import ConfigError, StorageError, UsageError

PRESET = data_root() / "configs" / "models" / "pixnerd-digits.yaml"


def preset_content() -> dict[str, Any]:
    """The digits preset as plain data."""
    return yaml.safe_load(PRESET.read_text(encoding="utf-8"))


def written(tmp_path: Path, text: str) -> str:
    """A preset file with that text."""
    path = tmp_path / "preset.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def plan(**changes: Any) -> Plan:
    """A small plan."""
    fields: dict[str, Any] = {
        "numerics_version": 1,
        "family": "pixnerd-class",
        "network": {"hidden_size": 96, "patch_size": 4},
        "weights_sha256": "ab" * 32,
        "ema": "averaged",
        "num_classes": 10,
        "labels": {"rule": "modulo"},
        "classes": None,
        "size": (16, 16),
        "sampling": {"solver": "adams", "order": 2, "num_steps": 15, "guidance_scale": 1.5},
        "first_seed": 0,
        "batch_size": 50,
        "uint8_rule": "half_up",
    }
    return Plan.model_validate(fields | changes)


@pytest.mark.parametrize(
    ("text", "value"), [("1e-4", 1e-4), ("1E-1", 0.1), ("1", 1.0), ("0.25", 0.25), ("5e-1", 0.5)]
)
def test_numbers_arrive_as_floats(tmp_path: Path, text: str, value: float) -> None:
    """YAML alone reads `1e-4` as text."""
    source = PRESET.read_text(encoding="utf-8").replace("timeshift: 1.0", f"timeshift: {text}")
    preset = load_spec(ModelPreset, written(tmp_path, source))
    assert preset.sampling.timeshift == value
    assert isinstance(preset.sampling.timeshift, float)


@pytest.mark.parametrize(
    ("place", "key", "nearest"),
    [
        ((), "batch_sise", "batch_size"),
        (("sampling",), "guidance_scales", "guidance_scale"),
        (("weights",), "sha265", "sha256"),
        (("evaluation",), "referense", "reference"),
        (("text", "encoder"), "atention", "attention"),
        (("published", 0), "inseption_score", "inception_score"),
    ],
)
def test_an_unknown_key_names_its_place_and_the_nearest(
    tmp_path: Path, place: tuple[str | int, ...], key: str, nearest: str
) -> None:
    """Inside optional sections and lists too."""
    content = preset_content()
    encoder = {"kind": "qwen3", "repo": "me/mine", "max_length": 8, "width": 16}
    content |= {"text": {"encoder": encoder}, "published": [{"source": "a paper"}]}
    inner: Any = content
    for part in place:
        inner = inner[part]
    inner[key] = 1
    with pytest.raises(ConfigError) as caught:
        load_spec(ModelPreset, written(tmp_path, yaml.safe_dump(content)))
    text = str(caught.value)
    assert repr(".".join(map(str, [*place, key]))) in text
    assert f"did you mean '{nearest}'?" in text
    assert "preset.yaml" in text
    assert "\n" not in text


def test_a_preset_cannot_set_its_own_path(tmp_path: Path) -> None:
    """`path` is where the file was read from."""
    with pytest.raises(ConfigError, match="unknown key 'path'"):
        load_spec(ModelPreset, written(tmp_path, PRESET.read_text() + "\npath: /etc\n"))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 10**12}, "batch_size: 1000000000000 is out of range: it must be at most"),
        ({"evaluation": {"num_samples": 10**30}}, "evaluation.num_samples"),
        ({"num_classes": -1}, "num_classes"),
        ({"size": [16]}, "size"),
        ({"size": [True, 16]}, "size must be a number"),
        ({"batch_size": "many"}, "batch_size"),
        ({"name": "../evil"}, "name"),
    ],
)
def test_a_wrong_value_is_one_line_with_its_key(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_spec(ModelPreset, written(tmp_path, yaml.safe_dump(preset_content() | changes)))
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"guidance_interval": "0.2,0.8"}, "'0.2,0.8' is no list in brackets: write [0.2,0.8]"),
        ({"guidance_interval": 0.2}, "guidance_interval: 0.2 is no list in brackets"),
        ({"guidance_interval": [0.2]}, "guidance_interval: [0.2] has too few entries"),
        ({"guidance_interval": [0.1, 0.2, 0.3]}, "has 3 entries, not 2"),
        ({"guidance_interval": [0.8, 0.2]}, "0 <= LO < HI <= 1, not 0.8 0.2"),
        ({"skip_unguided": "banana"}, "skip_unguided: 'banana' is neither true nor false"),
        ({"timeshift": 0.0}, "timeshift: 0.0 is out of range: it must be at least 0.0001"),
        ({"timeshift": "much"}, "timeshift: 'much' is no number"),
        ({"noise_scale": -1}, "noise_scale: -1 is out of range: it must be more than 0"),
        ({"num_steps": 2.5}, "num_steps: 2.5 is no whole number"),
        ({"num_steps": True}, "num_steps must be a number, not true"),
        ({"guidance_scale": False}, "guidance_scale must be a number, not false"),
        ({"last_step": True}, "last_step must be a number, not true"),
        ({"guidance_interval": [False, True]}, "guidance_interval must be a number"),
        ({"solver": "adam" * 30}, f"solver: 'adam{'adam' * 13}ada... is not 'euler', 'heun',"),
    ],
)
def test_a_wrong_setting_is_told_with_its_value_and_what_is_taken(
    changes: dict[str, Any], told: str
) -> None:
    sampling = preset_content()["sampling"]
    with pytest.raises(ValidationError) as caught:
        SamplingSettings.model_validate(sampling | changes)
    assert told in explain(caught.value, SamplingSettings)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    content = preset_content()
    del content["evaluation"]["num_samples"]
    with pytest.raises(ConfigError, match=r"evaluation\.num_samples: Field required"):
        load_spec(ModelPreset, written(tmp_path, yaml.safe_dump(content)))


@pytest.mark.parametrize(
    "text",
    [
        "a: [1",
        "- 1\n- 2\n",
        "",
        "!!python/object/new:os.system [id]",
        "a: " + "9" * 5000,
        "a: " + "[" * 9000,
    ],
    ids=["cut", "list", "nothing", "code", "digits", "deep"],
)
def test_files_that_are_no_mapping_are_refused(tmp_path: Path, text: str) -> None:
    """Also YAML that would run code in an unsafe loader."""
    with pytest.raises(ConfigError, match=r"preset\.yaml"):
        load_spec(ModelPreset, written(tmp_path, text))


def test_a_file_that_is_not_text_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "preset.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_spec(ModelPreset, str(path))
    with pytest.raises(UsageError, match="does not exist"):
        load_spec(ModelPreset, str(tmp_path / "other.yaml"))
    folder = tmp_path / "folder.yaml"
    folder.mkdir()
    with pytest.raises((UsageError, StorageError)):
        load_spec(ModelPreset, str(folder))


@pytest.mark.parametrize("kind", [ModelPreset, ExtractorSpec, ReferenceSpec, BenchmarkSpec])
def test_everything_that_travels_with_the_package_is_valid(kind: Any) -> None:
    """Also: the file's name is the name inside, and an unknown name gets the nearest."""
    names = names_of(kind)
    assert names
    for name in names:
        assert load_spec(kind, name).name == name
    with pytest.raises(UsageError, match=f"did you mean '{names[0]}'"):
        load_spec(kind, names[0] + "x")


def test_files_named_by_the_specs_have_their_digests() -> None:
    """Weights and references in the checkout are the ones that their YAML names."""
    found = [
        (spec.path.parent / spec.weights.file, spec.weights.sha256)
        for kind in (ModelPreset, ExtractorSpec)
        for spec in (load_spec(kind, name) for name in names_of(kind))
        if spec.weights.file is not None
    ]
    references = [load_spec(ReferenceSpec, name) for name in names_of(ReferenceSpec)]
    found += [(spec.path.parent / spec.file, spec.sha256) for spec in references if spec.file]
    assert len(found) >= 4
    for path, sha256 in found:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256, path


def test_the_tree_is_frozen() -> None:
    for thing, name in (
        (plan(), "first_seed"),
        (plan().sampling, "num_steps"),
        (LabelRule(), "rule"),
    ):
        with pytest.raises(ValidationError):
            setattr(thing, name, 1)


CHANGES: dict[str, Any] = {
    "numerics_version": 2,
    "family": "other",
    "network": {"hidden_size": 96, "patch_size": 8},
    "weights_sha256": "cd" * 32,
    "ema": "final",
    "source_sha256": "ef" * 32,
    "guide": {
        "family": "pixnerd-class",
        "network": {"hidden_size": 32},
        "weights_sha256": "cd" * 32,
        "ema": "averaged",
        "condition": "same",
    },
    "num_classes": 11,
    "labels": {"rule": "random", "seed": 1},
    "classes": (1, 2),
    "size": (16, 32),
    "sampling": {"solver": "adams", "order": 2, "num_steps": 17, "guidance_scale": 1.5},
    "first_seed": 1,
    "batch_size": 25,
    "uint8_rule": "half_even",
}
INSTEAD: dict[str, dict[str, Any]] = {
    "text": {
        "num_classes": None,
        "text": {
            "prompts": {"count": 2, "sha256": "ab" * 32},
            "negative_prompt": "",
            "encoder": {"kind": "qwen3", "repo": "me/mine", "max_length": 8, "width": 16},
            "encoder_sha256": "cd" * 32,
        },
    },
    "settings": {"sampling": None, "settings": {"num_steps": 4}},
}
"""Fields that stand in the place of others."""
SAMPLING_CHANGES: dict[str, Any] = {
    "solver": {"solver": "euler", "order": None},
    "num_steps": {"num_steps": 16},
    "order": {"order": 3},
    "step": {"solver": "euler", "order": None, "step": "sde"},
    "last_step": {"last_step": 0.04},
    "grid": {"grid": "linspace"},
    "timeshift": {"timeshift": 3.0},
    "guidance_scale": {"guidance_scale": 2.0},
    "guidance_interval": {"guidance_interval": (0.1, 1.0)},
    "interval_ends": {"interval_ends": "closed"},
    "skip_unguided": {"skip_unguided": False},
    "noise_scale": {"noise_scale": 0.9},
    "t_eps": {"t_eps": 0.05},
    "corrector_guidance": {"solver": "heun", "order": None, "corrector_guidance": "start"},
    "coefficients": {"coefficients": "float32"},
    "dtype": {"dtype": "bfloat16"},
}


def test_every_field_of_a_plan_changes_its_id() -> None:
    """A field that is added must be added here."""
    assert CHANGES.keys() | INSTEAD.keys() == Plan.model_fields.keys()
    assert SAMPLING_CHANGES.keys() == SamplingSettings.model_fields.keys()
    base = plan()
    sampling = base.sampling.model_dump()
    changed = [plan(**{name: value}) for name, value in CHANGES.items()]
    changed += [plan(**change) for change in INSTEAD.values()]
    changed += [plan(sampling=sampling | change) for change in SAMPLING_CHANGES.values()]
    ids = {p.plan_id for p in [base, *changed]}
    assert len(ids) == len(changed) + 1


def test_equal_plans_have_equal_ids() -> None:
    """1 and 1.0, a list and a tuple, an absent and a stated default, any order of keys."""
    base = plan().plan_id
    fields = {"guidance_scale": 1.5, "num_steps": 15, "order": 2, "solver": "adams"}
    assert plan(sampling=fields | {"timeshift": 1}).plan_id == base
    assert plan(sampling=fields | {"timeshift": 1.0, "guidance_interval": [0, 1]}).plan_id == base
    assert plan(network={"patch_size": 4, "hidden_size": 96}).plan_id == base
    assert plan(size=[16, 16]).plan_id == base


def test_a_plan_survives_json() -> None:
    """What the manifest stores hashes to the same id."""
    base = plan(classes=(3, 5), labels={"rule": "blocked", "per_class": 7})
    again = Plan.model_validate(json.loads(json.dumps(base.model_dump(mode="json"))))
    assert again == base
    assert again.plan_id == base.plan_id


@given(
    st.dictionaries(
        st.text(),
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False),
    )
)
def test_canonical_json_is_one_string_for_one_value(tree: dict[str, Any]) -> None:
    """Whatever the order of keys; and it reads back as the value."""
    content = canonical_json(tree)
    assert canonical_json(dict(reversed(tree.items()))) == content
    assert content.isascii()
    assert json.loads(content) == tree


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_json_lacks_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"a": value})
    with pytest.raises(ValidationError):
        SamplingSettings(solver="euler", num_steps=1, guidance_scale=value)


@pytest.mark.parametrize(
    "fields",
    [
        {"guidance_interval": (0.7, 0.1)},
        {"guidance_interval": (0.3, 0.3)},
        {"guidance_interval": (-0.1, 1)},
        {"num_steps": 0},
        {"guidance_scale": -1},
        {"timeshift": 0},
        {"order": 2},
        {"solver": "adams"},
        {"solver": "adams", "order": 5},
        {"solver": "heun", "step": "sde"},
        {"last_step": 0},
        {"noise_scale": 0},
    ],
)
def test_sampling_settings_that_cannot_be(fields: dict[str, Any]) -> None:
    good = {"solver": "euler", "num_steps": 4, "guidance_scale": 1.0}
    SamplingSettings.model_validate(good)
    with pytest.raises(ValidationError):
        SamplingSettings.model_validate(good | fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"rule": "blocked"},
        {"rule": "modulo", "seed": 1},
        {"rule": "random"},
        {"rule": "file"},
        {"rule": "blocked", "per_class": 0},
        {"rule": "sorted"},
    ],
)
def test_label_rules_that_cannot_be(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LabelRule.model_validate(fields)


def test_label_rules_describe_themselves_as_they_are_typed() -> None:
    """`random:0` too: seed 0 is a seed."""
    described = {
        "modulo": LabelRule(),
        "blocked:50": LabelRule(rule="blocked", per_class=50),
        "random:7": LabelRule(rule="random", seed=7),
        "random:0": LabelRule(rule="random", seed=0),
    }
    for text, rule in described.items():
        assert rule.describe() == text


def test_an_extractor_id_changes_with_what_decides_features() -> None:
    """Name alone would let two weights share features."""
    spec = load_spec(ExtractorSpec, "digits-convnet")
    weights = spec.weights.model_copy(update={"sha256": "ab" * 32})
    others = [
        spec.model_copy(update={"weights": weights}),
        spec.model_copy(update={"batch_size": 49}),
        spec.model_copy(update={"version": 2}),
        spec.model_copy(update={"resize": "bicubic"}),
    ]
    assert len({spec.extractor_id, *(other.extractor_id for other in others)}) == 5
    assert spec.model_copy(update={"title": "x"}).extractor_id == spec.extractor_id
    assert spec.extractor_id.startswith("digits-convnet-")


def test_a_spec_from_another_folder_knows_where_it_was_read(tmp_path: Path) -> None:
    path = Path(written(tmp_path, PRESET.read_text()))
    assert load_spec(ModelPreset, str(path)).path == path.resolve()
    assert (
        parse_spec(ModelPreset, preset_content(), path).weights.file == "pixnerd-digits.safetensors"
    )


def test_json_of_others_is_a_value_or_one_short_error() -> None:
    """Whatever stands in strings: brackets and digits there are text."""
    deep = "[" * 64 + "]" * 64
    assert parse_json(deep) == json.loads(deep)
    text = json.dumps({"a": "[" * 900 + "7" * 900 + '\\"', "b": [1, 2.5, None]})
    assert parse_json(text) == json.loads(text)
    for bad, words in [
        ("", "Expecting value at character 0"),
        (f"[{deep}]", "more than 64 deep"),
        ("[" * 99999, "more than 64 deep"),
        ('{"a":' * 70 + "1" + "}" * 70, "more than 64 deep"),
        ("9" * 301, "more than 300 digits"),
        ("9" * 9999, "more than 300 digits"),
        ("[NaN]", "NaN is no number in JSON"),
        ("-Infinity", "-Infinity is no number in JSON"),
        ("1e999", "a number is too large"),
        ('{"b": [{"a": 1, "a": 1}]}', "key 'a' is given twice"),
        (b"\xff{", "decode"),
    ]:
        with pytest.raises(ValueError, match=words) as raised:
            parse_json(bad)
        assert len(str(raised.value)) < 90
    assert parse_json(text.encode("utf-16")) == parse_json(text.encode()) == parse_json(text)


def test_many_keys_are_looked_through_once(tmp_path: Path) -> None:
    """Of which the last is given twice: no file takes minutes to be refused."""
    text = ", ".join([f'"k{i}": 0' for i in range(20_000)] + ['"k19999": 0'])
    began_s = time.process_time()
    with pytest.raises(ValueError, match="key 'k19999' is given twice"):
        parse_json("{" + text + "}")
    assert time.process_time() - began_s < 1
    with pytest.raises(ConfigError, match="key 'k1' is given twice"):
        load_spec(ModelPreset, written(tmp_path, "{k1: 0, ? [k1] : 1, k1: 2}"))

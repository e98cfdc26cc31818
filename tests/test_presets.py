"""The published models: settings, figures and networks equal to the fact sheets' tables."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from evalsuite.config import (
    ModelPreset,
    SamplingSettings,
    TextEncoderSpec,
    data_root,
    load_spec,
    names_of,
)
from evalsuite.models.registry import family_named

CONFIGS = data_root() / "configs"
GOLDENS = Path(__file__).parent / "golden" / "cases"
NAMES = names_of(ModelPreset)
OWN = {"pixnerd-digits", "pixnerd-shapes"}
PUBLISHED = [name for name in NAMES if name not in OWN]

_PIXNERD = {"solver": "euler", "num_steps": 100, "timeshift": 1.0, "guidance_scale": 3.5}
_PIXNERD |= {"guidance_interval": (0.1, 1.0), "interval_ends": "open"}
_PIXNERD_TEXT = {"solver": "adams", "order": 2, "num_steps": 25, "timeshift": 3.0}
_PIXNERD_TEXT |= {"guidance_scale": 4.0, "guidance_interval": (0.0, 1.0), "interval_ends": "open"}
_PIXELGEN = {"solver": "heun", "num_steps": 50, "timeshift": 2.0, "guidance_scale": 2.25}
_PIXELGEN |= {"guidance_interval": (0.1, 0.9), "interval_ends": "left_open"}
_PIXELGEN |= {"corrector_guidance": "start", "t_eps": 0.05}
_PIXELDIT = {"solver": "adams2_constant", "num_steps": 100, "timeshift": 1.0}
_PIXELDIT |= {"guidance_scale": 3.25, "guidance_interval": (0.1, 1.0), "interval_ends": "open"}
_PIXELDIT_TEXT = {"solver": "dpmpp_2m", "num_steps": 50, "timeshift": 4.0, "guidance_scale": 2.75}
_PIXELDIT_TEXT |= {"guidance_interval": (0.0, 1.0), "interval_ends": "open"}
_JIT = {"solver": "heun", "num_steps": 50, "guidance_interval": (0.1, 1.0), "t_eps": 0.05}
_JIT |= {"interval_ends": "open_but_zero", "grid": "linspace"}
SETTINGS: dict[str, dict[str, Any]] = {
    "jit-b-16-256": _JIT | {"guidance_scale": 3.0},
    "jit-l-16-256": _JIT | {"guidance_scale": 2.4},
    "jit-h-16-256": _JIT | {"guidance_scale": 2.2},
    "pixnerd-l-256": _PIXNERD | {"num_steps": 50},
    "pixnerd-xl-256": _PIXNERD,
    "pixnerd-xl-512": _PIXNERD,
    "pixnerd-xxl-t2i": _PIXNERD_TEXT,
    "pixelgen-xl-256": _PIXELGEN,
    "pixelgen-xl-256-80ep": _PIXELGEN | {"guidance_scale": 1.0},
    "pixelgen-xxl-t2i-512": _PIXNERD_TEXT | {"t_eps": 0.05},
    "pixeldit-xl-256-ep80": _PIXELDIT,
    "pixeldit-xl-256-ep160": _PIXELDIT,
    "pixeldit-xl-256-ep320": _PIXELDIT | {"guidance_scale": 2.75, "guidance_interval": (0.1, 0.9)},
    "pixeldit-xl-512": _PIXELDIT | {"guidance_scale": 3.5, "timeshift": 2.0},
    "pixeldit-t2i-1024": _PIXELDIT_TEXT,
}
"""All that differs from the defaults of SamplingSettings, without the dtype."""
INFERRED = {"pixnerd-xl-512", "pixeldit-t2i-1024"}
SIZES = {"pixeldit-t2i-1024": 1024} | dict.fromkeys(
    ["pixnerd-xl-512", "pixnerd-xxl-t2i", "pixelgen-xxl-t2i-512", "pixeldit-xl-512"], 512
)
FIDS: dict[str, list[float]] = {
    "jit-b-16-256": [3.66, 4.37],
    "jit-l-16-256": [2.36, 2.79],
    "jit-h-16-256": [1.86, 1.90, 2.29],
    "pixnerd-l-256": [2.64, 37.49],
    "pixnerd-xl-256": [1.93, 1.95, 2.15, 2.16, 2.29, 15.61],
    "pixnerd-xl-512": [2.42, 2.84, 3.41],
    "pixelgen-xl-256": [1.83],
    "pixelgen-xl-256-80ep": [5.11],
    "pixeldit-xl-256-ep80": [2.36],
    "pixeldit-xl-256-ep160": [1.97],
    "pixeldit-xl-256-ep320": [1.61, 11.857],
    "pixeldit-xl-512": [1.81, 1.78],
}
BENCHMARKS: dict[str, list[tuple[float | None, float | None]]] = {
    "pixnerd-xxl-t2i": [(0.73, 80.9)],
    "pixelgen-xxl-t2i-512": [(0.79, None)],
    "pixeldit-t2i-1024": [(0.74, 83.5), (0.78, 83.7)],
}
"""GenEval and DPG-Bench."""
FILES = {
    "jit-b-16-256": None,
    "jit-l-16-256": None,
    "jit-h-16-256": None,
    "pixnerd-l-256": None,
    "pixnerd-xl-256": "epoch=319-step=1600000_emainit.ckpt",
    "pixnerd-xl-512": "res512_ft200k_epoch=325-step=1800000_emainit.ckpt",
    "pixnerd-xxl-t2i": "model.ckpt",
    "pixelgen-xl-256": "PixelGen_XL_160ep.ckpt",
    "pixelgen-xl-256-80ep": "PixelGen_XL_80ep.ckpt",
    "pixelgen-xxl-t2i-512": "PixelGen_XXL_T2I.ckpt",
    "pixeldit-xl-256-ep80": "imagenet256_pixeldit_xl_epoch80.ckpt",
    "pixeldit-xl-256-ep160": "imagenet256_pixeldit_xl_epoch160.ckpt",
    "pixeldit-xl-256-ep320": "imagenet256_pixeldit_xl_epoch320.ckpt",
    "pixeldit-xl-512": "imagenet512_pixeldit_xl.ckpt",
    "pixeldit-t2i-1024": "pixeldit_t2i_v1.pth",
}
"""The first place of each: the authors' own file."""
_PIXELDIT_KEYS = ("pixeldit", "keys_pixeldit_xl_16")
KEYS = {
    "jit-l-16-256": ("pixelgen", "keys_pixelgen_l_16_256"),
    "pixnerd-l-256": ("pixnerd", "keys_c2i_large_256"),
    "pixnerd-xl-256": ("pixnerd", "keys_c2i_xl_256"),
    "pixnerd-xl-512": ("pixnerd", "keys_c2i_xl_512"),
    "pixnerd-xxl-t2i": ("pixnerd", "keys_t2i_xxl_heavydecoder"),
    "pixelgen-xl-256": ("pixelgen", "keys_pixelgen_xl_16_256"),
    "pixelgen-xl-256-80ep": ("pixelgen", "keys_pixelgen_xl_16_256"),
    "pixelgen-xxl-t2i-512": ("pixelgen", "keys_pixelgen_xxl_16_512_t2i"),
    "pixeldit-xl-256-ep80": _PIXELDIT_KEYS,
    "pixeldit-xl-256-ep160": _PIXELDIT_KEYS,
    "pixeldit-xl-256-ep320": _PIXELDIT_KEYS,
    "pixeldit-xl-512": _PIXELDIT_KEYS,
    "pixeldit-t2i-1024": ("pixeldit", "keys_pixeldit_t2i_1300m"),
}
EMA = {"pixeldit-t2i-1024": "core"}
EMA |= dict.fromkeys(["jit-b-16-256", "jit-l-16-256", "jit-h-16-256"], "model_ema1")
PARAMETERS = {
    "jit-b-16-256": 131_320_320,
    "jit-l-16-256": 459_139_808,
    "jit-h-16-256": 952_842_048,
    "pixnerd-l-256": 452_113_795,
    "pixnerd-xl-256": 700_589_219,
    "pixnerd-xxl-t2i": 1_171_518_019,
    "pixelgen-xl-256": 676_994_112,
    "pixelgen-xxl-t2i-512": 1_123_312_384,
    "pixeldit-xl-512": 797_383_203,
    "pixeldit-t2i-1024": 1_302_470_787,
}
QWEN3 = {"kind": "qwen3", "repo": "Qwen/Qwen3-1.7B", "max_length": 128, "width": 2048}
ENCODERS: dict[str, dict[str, Any]] = {
    "pixnerd-xxl-t2i": QWEN3 | {"empty_prompt": "uniform"},
    "pixelgen-xxl-t2i-512": QWEN3 | {"empty_prompt": "masked"},
    "pixeldit-t2i-1024": {
        "kind": "gemma2",
        "attention": "eager",
        "repo": "Efficient-Large-Model/gemma-2-2b-it",
        "max_length": 300,
        "width": 2304,
    },
}


def preset(name: str) -> ModelPreset:
    return load_spec(ModelPreset, name)


def test_the_tables_of_this_file_name_every_preset() -> None:
    """So a preset without facts to be equal to fails."""
    assert sorted(SETTINGS) == sorted(FILES) == sorted([*FIDS, *BENCHMARKS]) == PUBLISHED
    assert [name for name in PUBLISHED if preset(name).text] == sorted(ENCODERS)


@pytest.mark.parametrize("name", PUBLISHED)
def test_settings_are_the_published_ones(name: str) -> None:
    """Every field, also those that the YAML leaves to its defaults; bfloat16 as published."""
    found = preset(name)
    assert found.sampling == SamplingSettings(**SETTINGS[name], dtype="bfloat16")
    assert found.settings_are == ("inferred" if name in INFERRED else "published")
    assert found.size == (SIZES.get(name, 256),) * 2
    assert found.uint8_rule == ("half_even" if name.startswith("jit-") else "half_up")


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_setting_that_is_stated_has_a_source(name: str) -> None:
    """And no source is of a setting that does not exist."""
    found = preset(name)
    assert found.sampling is not None
    stated = found.sampling.model_fields_set
    assert stated >= SETTINGS[name].keys() | {"dtype", "noise_scale"}
    known = SamplingSettings.model_fields.keys() | found.network.keys() | {"ema", "uint8_rule"}
    if found.text:
        known |= TextEncoderSpec.model_fields.keys() | {"negative_prompt"}
        stated = stated | {"empty_prompt"}
    assert stated <= found.sources.keys() <= known


@pytest.mark.parametrize("name", PUBLISHED)
def test_claims_are_those_that_were_collected(name: str) -> None:
    """Contradictions stand side by side, and each says where it is from."""
    claims = preset(name).published
    assert [claim.fid for claim in claims if claim.fid is not None] == FIDS.get(name, [])
    scores = [(claim.geneval, claim.dpg) for claim in claims if claim.geneval is not None]
    assert scores == BENCHMARKS.get(name, [])
    for claim in claims:
        assert claim.source
        assert claim.setting
        assert (claim.protocol is None) == (claim.fid is None)
    assert len({(claim.source, claim.setting, claim.note) for claim in claims}) == len(claims)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_first_place_is_the_authors_file(name: str) -> None:
    weights = preset(name).weights
    assert (weights.file, weights.sha256) == (None, None)
    assert next((place.filename for place in weights.places), None) == FILES[name]
    assert weights.ema == EMA.get(name, "ema_denoiser")
    assert (weights.note is not None) == (not weights.places)
    for place in weights.places:
        diffusers = place.filename.endswith("/diffusion_pytorch_model.safetensors")
        assert (place.layout == "diffusers") == diffusers


@pytest.mark.parametrize("name", NAMES)
def test_the_network_is_the_full_size_one(name: str) -> None:
    """Keys and shapes of the authors' checkpoint, and the count that the preset states."""
    found = preset(name)
    with torch.device("meta"):
        state = family_named(found.family).build(found.network).state_dict()
    assert sum(value.numel() for value in state.values()) == found.parameters
    assert found.parameters == PARAMETERS.get(name, found.parameters)
    if name in KEYS:
        folder, keys = KEYS[name]
        golden = json.loads((GOLDENS / folder / f"{keys}.json").read_text(encoding="utf-8"))
        assert {key: list(value.shape) for key, value in state.items()} == golden


@pytest.mark.parametrize("name", NAMES)
def test_the_condition_fits_the_network(name: str) -> None:
    found = preset(name)
    family = family_named(found.family)
    assert family.condition == ("text" if found.text else "class")
    assert found.network.get("num_classes") == found.num_classes
    assert found.size[0] % family.multiple_of(found.network) == 0
    assert family.only_size(found.network) in {None, found.size[0]}
    assert found.class_names == ("imagenet-1k" if found.num_classes == 1000 else found.class_names)
    if found.sampling is not None:
        assert (found.sampling.t_eps is not None) == (family.prediction == "clean")


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_text_presets(name: str) -> None:
    """The encoder's features fit the network, and the prompts for a first look are there."""
    found = preset(name)
    assert found.text is not None
    assert found.text.encoder == TextEncoderSpec(**ENCODERS[name])
    assert found.network["txt_max_length"] == found.text.encoder.max_length
    assert found.network["txt_embed_dim"] == found.text.encoder.width
    assert found.text.prompts is not None
    prompts = (found.path.parent / found.text.prompts).read_text(encoding="utf-8").splitlines()
    assert len(prompts) == len(set(prompts)) == 8
    assert all(prompts)


def test_the_instruction_that_cannot_travel_is_said_to_be_missing() -> None:
    """A preset that left it out in silence would not be the authors' model."""
    for name in ENCODERS:
        text = preset(name).text
        assert text is not None
        assert text.lacks_instruction == (name == "pixeldit-t2i-1024")
    pixeldit = preset("pixeldit-t2i-1024")
    assert pixeldit.settings_are == "inferred"
    assert "to be given by the user" in pixeldit.sources["instruction"]


@pytest.mark.parametrize("name", NAMES)
def test_no_preset_points_outside_the_configurations(name: str) -> None:
    """What a preset names travels with it: no path of a machine is in it."""
    found = preset(name)
    for path in (found.weights.file, found.card, found.text and found.text.prompts):
        if path is not None:
            target = (found.path.parent / path).resolve()
            assert target.is_file()
            assert target.is_relative_to(CONFIGS)
    text = found.path.read_text(encoding="utf-8")
    assert not any(word in text for word in ("://", "~/", " /", "..\\"))


def sweep_points(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The settings of each combination of a sweep's axes."""
    axes = [
        [value if isinstance(value, dict) else {name: value} for value in values]
        for name, values in spec["axes"].items()
    ]
    return [
        {key: value for part in point for key, value in part.items()}
        for point in itertools.product(*axes)
    ]


def test_every_point_of_the_sweep_is_a_setting_of_its_model() -> None:
    """The inferred settings are one of them, so the search can only improve on them."""
    spec = yaml.safe_load((CONFIGS / "sweeps" / "pixnerd-xl-512.yaml").read_text(encoding="utf-8"))
    base = preset(spec["model"]).sampling
    assert base is not None
    points = [
        SamplingSettings.model_validate(base.model_dump() | point) for point in sweep_points(spec)
    ]
    assert len(points) == len({point.model_dump_json() for point in points})
    assert len(points) == math.prod(len(values) for values in spec["axes"].values())
    assert base in points
    assert spec["rungs"] == [2000, 8000, 50000]

"""Presets that extend others: what is merged, what is replaced, what is never inherited."""

import typing
from pathlib import Path
from typing import Any

import pytest
import yaml

from evalsuite.config import (
    ModelPreset,
    ReferenceSpec,
    SolverName,
    data_root,
    load_spec,
    names_of,
)
from evalsuite.errors import ConfigError
from evalsuite.pipeline.plan import PlanOptions, resolve_plan
from evalsuite.pipeline.settings import native_settings
from evalsuite.pipeline.weights import WeightsRequest

BUILT_IN = data_root() / "configs" / "models"


def written(folder: Path, name: str, /, **content: Any) -> str:
    """The path of a YAML file with that content."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(path)


def mine(folder: Path, base: str = "pixnerd-xl-256", /, **content: Any) -> ModelPreset:
    """A preset of a researcher, on top of one of ours."""
    described = {"name": "mine", "title": "Mine", "description": "My own."}
    return load_spec(ModelPreset, written(folder, "mine", extends=base, **(described | content)))


def test_a_file_anywhere_extends_a_preset_by_name(tmp_path: Path) -> None:
    """Mappings are merged key by key; what is not named stays."""
    base = load_spec(ModelPreset, "pixnerd-xl-256")
    found = mine(tmp_path, sampling={"guidance_scale": 2.0}, network={"num_classes": 10})
    assert found.sampling is not None
    assert base.sampling is not None
    assert found.sampling == base.sampling.model_copy(update={"guidance_scale": 2.0})
    assert found.network == base.network | {"num_classes": 10}
    assert (found.family, found.size, found.batch_size) == ("pixnerd-class", (256, 256), 16)
    assert found.path == (tmp_path / "mine.yaml").resolve()


def test_lists_are_replaced_whole(tmp_path: Path) -> None:
    found = mine(
        tmp_path,
        sampling={"guidance_interval": [0.3, 0.9]},
        weights={"places": [{"repo": "me/model", "filename": "m.ckpt", "layout": "lightning"}]},
        class_names=["cat", "dog"],
    )
    assert found.sampling is not None
    assert found.sampling.guidance_interval == (0.3, 0.9)
    assert [place.repo for place in found.weights.places] == ["me/model"]
    assert found.class_names == ("cat", "dog")


def test_null_removes_what_the_base_has(tmp_path: Path) -> None:
    found = mine(tmp_path, "pixelgen-xl-256", sampling={"corrector_guidance": None})
    assert found.sampling is not None
    assert found.sampling.corrector_guidance is None
    with pytest.raises(ConfigError, match="order is for solver 'adams' alone"):
        mine(tmp_path, "pixnerd-xxl-t2i", sampling={"order": None})


SOLVERS: tuple[SolverName, ...] = typing.get_args(SolverName)


@pytest.mark.parametrize(
    "base", ["jit-b-16-256", "pixelgen-xl-256", "pixelgen-xxl-t2i-512", "pixnerd-xl-256"]
)
@pytest.mark.parametrize("own", SOLVERS)
def test_a_solver_in_a_file_is_what_it_is_as_an_option(
    tmp_path: Path, base: str, own: SolverName
) -> None:
    """From the file, `--solver` then gives for every other solver what it gives from the base."""
    ours = load_spec(ModelPreset, base)
    found = mine(tmp_path, base, sampling={"solver": own})
    assert found.sampling == native_settings(ours, {"solver": own})
    for solver in SOLVERS:
        assert native_settings(found, {"solver": solver}) == native_settings(
            ours, {"solver": solver}
        )


LEFT_OUT: dict[str, dict[str, Any]] = {
    "interval": {
        "sampling": {"solver": "euler"},
        "with_solver": {
            "heun": {"guidance_interval": [0.2, 0.8], "interval_ends": "closed", "noise_scale": 2.0}
        },
    },
    "null": {
        "sampling": {"solver": "euler"},
        "with_solver": {"heun": {"last_step": 0.01}, "adams": {"order": 4, "last_step": 0.02}},
    },
    "restored": {
        "sampling": {"solver": "adams", "order": 3, "coefficients": "float32"},
        "with_solver": {"dpmpp_2m": {"timeshift": 3.0}},
    },
    "grid of its own": {
        "sampling": {"solver": "heun", "grid": "linspace", "corrector_guidance": "start"},
        "with_solver": {"euler": {"step": "sde", "grid": None}},
    },
}


@pytest.mark.parametrize("case", LEFT_OUT)
@pytest.mark.parametrize("own", SOLVERS)
def test_what_a_base_leaves_out_is_its_default_again(
    tmp_path: Path, case: str, own: SolverName
) -> None:
    """A base that writes only what it needs; from a file with another solver, and from one more."""
    base = yaml.safe_load((BUILT_IN / "pixnerd-xl-256.yaml").read_text(encoding="utf-8"))
    few = {"num_steps": 4, "guidance_scale": 2.0, **LEFT_OUT[case]["sampling"]}
    path = written(tmp_path, "base", **{**base, **LEFT_OUT[case], "sampling": few, "sources": {}})
    ours = load_spec(ModelPreset, path)
    found = mine(tmp_path, "base.yaml", sampling={"solver": own})
    assert found.sampling == native_settings(ours, {"solver": own})
    written(tmp_path, "middle", extends="base.yaml", name="m", sampling={"solver": "heun_reuse"})
    far = mine(tmp_path, "middle.yaml", sampling={"solver": own})
    for solver in SOLVERS:
        wanted = native_settings(ours, {"solver": solver})
        assert native_settings(found, {"solver": solver}) == wanted
        assert native_settings(far, {"solver": solver}) == wanted


def test_a_base_without_a_solver_keeps_the_order_that_it_states(tmp_path: Path) -> None:
    base = yaml.safe_load((BUILT_IN / "pixnerd-xl-256.yaml").read_text(encoding="utf-8"))
    del base["sampling"]["solver"]
    base["sampling"]["order"] = 3
    written(tmp_path, "base", **base)
    found = mine(tmp_path, "base.yaml", sampling={"solver": "adams"})
    assert found.sampling is not None
    assert found.sampling.order == 3


def test_what_a_file_says_of_its_solver_goes_before_what_comes_with_it(tmp_path: Path) -> None:
    sampling = {"solver": "adams", "order": 3, "interval_ends": "closed"}
    found = mine(tmp_path, "pixelgen-xl-256", sampling=sampling)
    assert found.sampling is not None
    assert (found.sampling.order, found.sampling.interval_ends) == (3, "closed")


def test_a_setting_that_a_file_states_stays_under_every_solver(tmp_path: Path) -> None:
    """PixNerd's Heun has another interval; the file's own entry for a solver goes before both."""
    stated = {"guidance_interval": [0.2, 0.8]}
    found = mine(tmp_path, sampling=stated)
    heun = native_settings(found, {"solver": "heun"})
    assert (heun.guidance_interval, heun.interval_ends) == ((0.2, 0.8), "closed")
    back = mine(tmp_path, sampling={"solver": "heun", **stated})
    assert native_settings(back, {"solver": "euler"}).guidance_interval == (0.2, 0.8)
    entry = {"heun": {"guidance_interval": [0.3, 0.7]}}
    own = mine(tmp_path, sampling=stated, with_solver=entry)
    assert native_settings(own, {"solver": "heun"}).guidance_interval == (0.3, 0.7)
    assert native_settings(own, {"solver": "adams"}).guidance_interval == (0.2, 0.8)
    over = mine(tmp_path, with_solver=entry)
    assert native_settings(over, {"solver": "heun"}).guidance_interval == (0.3, 0.7)


@pytest.mark.parametrize(("interval", "ends"), [((0.3, 0.7), "open"), ((0.1, 1.0), "closed")])
def test_an_interval_and_its_ends_stay_together(
    tmp_path: Path, interval: tuple[float, float], ends: str
) -> None:
    """A file states both, one as its base has it and one anew."""
    found = mine(tmp_path, sampling={"guidance_interval": list(interval), "interval_ends": ends})
    for solver in ("heun", "heun_reuse", "adams", "euler"):
        settings = native_settings(found, {"solver": solver})
        assert (settings.guidance_interval, settings.interval_ends) == (interval, ends)


def test_heun_guides_every_evaluation_of_every_published_pixnerd(tmp_path: Path) -> None:
    """Also where a file states the interval of its base again, as ours do beside its source."""
    found = [load_spec(ModelPreset, name) for name in names_of(ModelPreset)]
    published = [one for one in found if one.family == "pixnerd-class" and one.num_classes == 1000]
    ours = {one.name: one for one in published}
    assert {"pixnerd-l-256", "pixnerd-xl-256", "pixnerd-xl-512"} <= ours.keys()
    ours["mine"] = mine(tmp_path, sampling={"guidance_interval": [0.1, 1], "interval_ends": "open"})
    for name, preset in ours.items():
        for solver in ("heun", "heun_reuse"):
            heun = native_settings(preset, {"solver": solver})
            wanted = (name, (0.0, 1.0), "closed")
            assert (name, heun.guidance_interval, heun.interval_ends) == wanted


def test_an_interval_that_comes_with_a_solver_is_said(tmp_path: Path) -> None:
    def notices(model: str, **asked: Any) -> tuple[str, ...]:
        weights = WeightsRequest("random:0")
        return resolve_plan(PlanOptions(model, weights, sampling=asked)).notices

    (notice,) = notices("pixnerd-xl-256", solver="heun")
    assert "solver heun comes with the guidance interval 0 1 in pixnerd-xl-256, not 0.1 1" in notice
    assert notices("pixnerd-xl-256", solver="heun", guidance_interval=(0.1, 1.0)) == ()
    assert notices("pixnerd-xl-256", solver="adams") == ()
    mine(tmp_path, sampling={"guidance_interval": [0.2, 0.8]})
    assert notices(str(tmp_path / "mine.yaml"), solver="heun") == ()


def test_claims_of_the_base_are_not_inherited(tmp_path: Path) -> None:
    """Published figures are of one checkpoint under its settings, not of what extends it."""
    found = mine(tmp_path)
    assert found.published == ()
    assert found.known_rates == ()
    assert found.parameters is None
    assert found.card is None
    assert found.settings_are == "own"
    path = written(tmp_path, "nameless", extends="pixnerd-xl-256")
    with pytest.raises(ConfigError, match=r"nameless\.yaml: name: Field required"):
        load_spec(ModelPreset, path)


def test_a_setting_that_is_changed_loses_its_source(tmp_path: Path) -> None:
    base = load_spec(ModelPreset, "pixnerd-xl-256")
    sampling = {"guidance_scale": 2.0, "num_steps": 7}
    found = mine(tmp_path, sampling=sampling, sources={"dtype": "x"})
    kept = {key: value for key, value in base.sources.items() if key not in sampling}
    assert found.sources == kept | {"dtype": "x"}
    text = {"negative_prompt": "fog", "encoder": {"empty_prompt": "masked"}}
    text_model = mine(tmp_path, "pixnerd-xxl-t2i", text=text, weights={"ema": "denoiser"})
    assert not text_model.sources.keys() & {"negative_prompt", "empty_prompt"}
    assert "base_size" in text_model.sources
    assert "ema" not in mine(tmp_path, "jit-b-16-256", weights={"ema": "model_ema2"}).sources


def test_a_setting_that_another_solver_changes_loses_its_source(tmp_path: Path) -> None:
    """It is not the published program's any more, though the file does not name it."""
    base = load_spec(ModelPreset, "pixnerd-xl-256")
    found = mine(tmp_path, sampling={"solver": "heun"})
    lost = {"solver", "guidance_interval", "interval_ends"}
    assert lost <= base.sources.keys()
    assert found.sources == {key: text for key, text in base.sources.items() if key not in lost}
    text_model = mine(tmp_path, "pixnerd-xxl-t2i", sampling={"solver": "euler"})
    assert not text_model.sources.keys() & {"solver", "order"}
    assert "guidance_interval" in text_model.sources


WRONG_ENTRIES = [
    ({"heun": {"guidence_interval": [0, 1]}}, "with_solver.heun: unknown key 'guidence_interval'"),
    ({"heun": {"order": 2}}, "with_solver.heun: order is for solver 'adams' alone"),
    ({"adams": {"order": 9}}, "with_solver.adams: order: 9 is out of range"),
    ({"dpmpp_2m": {"last_step": 0.1}}, "with_solver.dpmpp_2m: solver 'dpmpp_2m' has a grid of"),
    ({"adams": {"solver": "heun"}}, "with_solver.adams: it cannot hold 'solver'"),
    ({"euler": {"timeshift": 2.0}}, "with_solver.euler: it is the preset's own solver"),
]


@pytest.mark.parametrize(("entries", "words"), WRONG_ENTRIES)
def test_what_comes_with_a_solver_is_checked_when_it_is_read(
    tmp_path: Path, entries: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        mine(tmp_path, with_solver=entries)
    assert "mine.yaml: " in str(caught.value)
    assert words in str(caught.value)


def test_own_weights_replace_the_published_ones(tmp_path: Path) -> None:
    """Neither a digest nor a place of other weights is left; which EMA to take is."""
    found = mine(tmp_path, weights={"file": "step_1000.ckpt"})
    assert found.weights.file == "step_1000.ckpt"
    assert (found.weights.sha256, found.weights.places) == (None, ())
    assert found.weights.ema == "ema_denoiser"
    digits = mine(tmp_path, "pixnerd-digits", weights={"file": "step_1000.ckpt"})
    assert digits.weights.sha256 is None
    raw = mine(tmp_path, weights={"ema": "denoiser"})
    assert raw.weights.ema == "denoiser"
    assert raw.weights.places == load_spec(ModelPreset, "pixnerd-xl-256").weights.places


def test_inherited_paths_are_those_of_the_file_that_wrote_them(tmp_path: Path) -> None:
    """Two steps up as well; a path of the file itself stays relative to it."""
    digits = mine(tmp_path, "pixnerd-digits")
    assert digits.weights.file == str(BUILT_IN / "pixnerd-digits.safetensors")
    described = {"title": "T", "description": "D"}
    text = {"prompts": "prompts.txt"}
    written(tmp_path, "a", extends="pixnerd-xxl-t2i", name="a", text=text, **described)
    (tmp_path / "far").mkdir()
    found = mine(tmp_path / "far", "../a.yaml")
    assert found.text is not None
    assert found.text.prompts is not None
    assert Path(found.text.prompts).resolve() == (tmp_path / "prompts.txt").resolve()
    own = mine(tmp_path / "far", "../a.yaml", text={"prompts": "here.txt"})
    assert own.text is not None
    assert own.text.prompts == "here.txt"


def test_an_instruction_is_given_by_extending(tmp_path: Path) -> None:
    """The way to run PixelDiT's text model as its authors do."""
    base = load_spec(ModelPreset, "pixeldit-t2i-1024")
    found = mine(tmp_path, base.name, text={"encoder": {"instruction": ["one", "two"]}})
    assert base.text is not None
    assert found.text is not None
    assert (base.text.lacks_instruction, found.text.lacks_instruction) == (True, False)
    assert found.text.encoder.instruction == ("one", "two")
    assert found.text.encoder.repo == base.text.encoder.repo


@pytest.mark.parametrize(
    ("extends", "words"),
    [
        ("pixnerd-xl-265", "extends 'pixnerd-xl-265': did you mean 'pixnerd-xl-256'?"),
        ("other.yaml", "extends 'other.yaml': there is no such file"),
        (["pixnerd-xl-256"], "extends must be the name or path of a model"),
        ("../configs/models/pixnerd-xl-256", "did you mean 'pixnerd-xl-256'?"),
    ],
)
def test_an_unknown_base_is_one_line(tmp_path: Path, extends: object, words: str) -> None:
    path = written(tmp_path, "mine", extends=extends)
    with pytest.raises(ConfigError) as caught:
        load_spec(ModelPreset, path)
    assert words in str(caught.value)
    assert "mine.yaml" in str(caught.value)


@pytest.mark.parametrize("chain", [["a"], ["a", "b"], ["a", "b", "c"]], ids=len)
def test_a_circle_is_refused(tmp_path: Path, chain: list[str]) -> None:
    for name, base in zip(chain, [*chain[1:], chain[0]], strict=True):
        written(tmp_path, name, extends=f"{base}.yaml", name=name)
    with pytest.raises(ConfigError, match="comes back to itself"):
        load_spec(ModelPreset, str(tmp_path / "a.yaml"))


def test_each_file_of_a_chain_lies_over_the_ones_below(tmp_path: Path) -> None:
    written(tmp_path, "a", extends="pixnerd-xl-256", name="a", title="A", description="A")
    first = load_spec(ModelPreset, written(tmp_path, "b", extends="a.yaml", name="b", batch_size=4))
    second = load_spec(ModelPreset, written(tmp_path, "c", extends="b.yaml", name="c", title="C"))
    assert (first.title, first.batch_size) == ("A", 4)
    assert (second.title, second.batch_size) == ("C", 4)


@pytest.mark.parametrize("section", ["weights", "sampling", "sources", "text", "network"])
def test_a_section_of_the_wrong_kind_is_one_line(tmp_path: Path, section: str) -> None:
    """Whether it stands in the file or in its base."""
    written(tmp_path, "wrong", **{section: [3]})
    written(tmp_path, "over", extends="wrong.yaml", name="x")
    written(tmp_path, "under", extends="pixnerd-xl-256", name="x", **{section: 3})
    for name in ("over", "under"):
        with pytest.raises(ConfigError, match=rf"{name}\.yaml: "):
            load_spec(ModelPreset, str(tmp_path / f"{name}.yaml"))


def test_a_misspelt_extends_gets_the_nearest_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown key 'extend': did you mean 'extends'"):
        load_spec(ModelPreset, written(tmp_path, "mine", extend="pixnerd-xl-256"))


def test_only_models_extend(tmp_path: Path) -> None:
    """A reference or an extractor is what it is."""
    path = written(tmp_path, "mine", extends="digits-16-train")
    with pytest.raises(ConfigError, match="unknown key 'extends'"):
        load_spec(ReferenceSpec, path)

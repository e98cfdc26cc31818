"""Axes: values as a person writes them, names that exist, every combination, and what they ask."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalsuite.config import SweepSpec, load_spec, names_of
from evalsuite.errors import ConfigError, UsageError
from evalsuite.pipeline.plan import PlanOptions, resolve_plan
from evalsuite.sweep.axes import axes_of, combinations, options_with
from evalsuite.sweep.values import parse_values, shown

MODEL = "pixnerd-digits"


@pytest.mark.parametrize(
    ("name", "text", "values"),
    [
        ("guidance_scale", "1.5:2.5:0.25", (1.5, 1.75, 2.0, 2.25, 2.5)),
        ("guidance_scale", "1:2:0.4", (1.0, 1.4, 1.8)),
        ("timeshift", "1,2,3", (1, 2, 3)),
        ("num_steps", "10:50:20", (10, 30, 50)),
        ("timeshift", "1,2:3:0.5", (1, 2.0, 2.5, 3.0)),
        ("noise_scale", "1e-1,1E0", (0.1, 1.0)),
        ("solver", "euler,heun", ("euler", "heun")),
        ("skip_unguided", "true,false", (True, False)),
        ("guidance_interval", "0.1:1.0,0.3:1", ((0.1, 1.0), (0.3, 1.0))),
        ("ema", "0.9999,0.9996", ("0.9999", "0.9996")),
        ("weights", "hub:a/b:c.pt,d.pt", ("hub:a/b:c.pt", "d.pt")),
    ],
)
def test_values(name: str, text: str, values: tuple[object, ...]) -> None:
    found = parse_values(name, text)
    assert found == values
    assert [type(value) for value in found] == [type(value) for value in values]


@given(start=st.integers(0, 100), steps=st.integers(0, 99), step=st.integers(1, 50))
def test_a_range_reaches_its_end_exactly(start: int, steps: int, step: int) -> None:
    """In hundredths, where binary fractions would drift."""
    stop = start + steps * step
    text = ":".join(f"{number / 100:.2f}" for number in (start, stop, step))
    found = parse_values("timeshift", text)
    assert found == tuple(float(f"{(start + k * step) / 100:.2f}") for k in range(steps + 1))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("timeshift", "", "has an empty place"),
        ("timeshift", "1,,2", "has an empty place"),
        ("timeshift", "4:1:1", "is reversed: 4 comes after 1; write 1:4:1"),
        ("timeshift", "1:4:0", "the step must be above 0"),
        ("timeshift", "1:4:-1", "the step must be above 0"),
        ("timeshift", "1:4", "is no range: write START:STOP:STEP"),
        ("timeshift", "1:x:1", "'x' is no number"),
        ("timeshift", "1:inf:1", "'inf' is no number"),
        ("timeshift", "0:1:1e-9", "more than 10000 values"),
        ("timeshift", "1,2,1", "has 1 twice"),
        ("guidance_interval", "0.1,1", "must be LO:HI"),
        ("guidance_interval", "0:1e999", "'1e999' is no number"),
        ("guidance_scale", "snan", "is no finite number"),
        ("guidance_scale", "1e999", "is no finite number"),
        ("guidance_scale", ".nan", "is no finite number"),
        ("timeshift", "0:1e99999999999:1", "'1e99999999999' is no number"),
        ("timeshift", "0:1e300:1", "more than 10000 values"),
        ("timeshift", "1:snan:1", "'snan' is no number"),
        ("num_steps", "-+5", "is no value"),
        ("num_steps", "9" * 5000, "is no value"),
        ("solver", "2001-13-45", "is no value"),
    ],
)
def test_values_that_are_none(name: str, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_values(name, text)


def test_a_specification_s_values_are_finite_too() -> None:
    for values in ([1.0, float("nan")], [(0.1, float("inf"))], [{"solver": "euler", "t": -np.inf}]):
        with pytest.raises(UsageError, match="is no finite number"):
            axes_of({"guidance_scale": values}, MODEL)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("guidance_scales", "did you mean 'guidance_scale'"),
        ("replicate", "all configurations of a sweep share their seeds"),
        ("first_seed", "share their seeds"),
        ("labels", "make one sweep for each"),
        ("size", "make one sweep for each"),
    ],
)
def test_names_that_are_no_axis(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        axes_of({name: "1,2"}, MODEL)
    with pytest.raises(UsageError, match=said):
        axes_of({"solver": [{name: 1}]}, MODEL)


def test_weights_in_the_order_of_their_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for step in (1000, 200, 30):
        Path(f"step_{step}.pt").touch()
    assert axes_of({"weights": "step_*.pt"}, MODEL) == {
        "weights": ("step_30.pt", "step_200.pt", "step_1000.pt")
    }
    with pytest.raises(UsageError, match=r"--weights 'no_\*' matches no file"):
        axes_of({"weights": "no_*"}, MODEL)
    with pytest.raises(UsageError, match="twice"):
        axes_of({"weights": "step_*.pt,step_30.pt"}, MODEL)


def test_every_combination_has_its_own_name_and_plan() -> None:
    axes = axes_of(
        {
            "solver": [{"solver": "euler"}, {"solver": "adams", "order": 3}],
            "guidance_interval": "0.1:1.0,0.3:1.0",
            "timeshift": "2",
        },
        MODEL,
    )
    found = combinations(axes)
    assert [one.name for one in found] == [
        "solver=euler, guidance_interval=0.1:1",
        "solver=euler, guidance_interval=0.3:1",
        "solver=adams order=3, guidance_interval=0.1:1",
        "solver=adams order=3, guidance_interval=0.3:1",
    ]
    base = PlanOptions(MODEL, sampling={"num_steps": 7})
    plans = [resolve_plan(options_with(base, one.setting)).plan for one in found]
    assert len({plan.plan_id for plan in plans}) == 4
    settings = plans[2].sampling
    assert settings is not None
    assert (settings.solver, settings.order, settings.timeshift) == ("adams", 3, 2.0)
    assert (settings.num_steps, settings.guidance_interval) == (7, (0.1, 1.0))
    assert len({plan.first_seed for plan in plans}) == 1


def test_axes_that_give_one_setting_twice() -> None:
    axes = axes_of({"solver": [{"solver": "adams", "order": 2}], "order": "1,2"}, MODEL)
    with pytest.raises(UsageError, match="axis 'order' gives order, which another axis gives too"):
        combinations(axes)


def test_plan_fields_as_axes() -> None:
    base = PlanOptions(MODEL)
    options = options_with(base, {"batch_size": 10, "weights": "a.pt", "ema": "raw"})
    assert (options.batch_size, options.weights.given, options.weights.ema) == (10, "a.pt", "raw")
    guided = options_with(base, {"guide_weights": "weak.pt", "guide_condition": "null"})
    assert guided.guide is not None
    assert (guided.guide.weights, guided.guide.condition) == ("weak.pt", "null")
    with pytest.raises(UsageError, match="needs --guide-weights"):
        options_with(base, {"guide_condition": "null"})
    with pytest.raises(UsageError, match="must be same or null"):
        options_with(base, {"guide_weights": "weak.pt", "guide_condition": "none"})
    with pytest.raises(UsageError, match="batch_size must be a whole number"):
        options_with(base, {"batch_size": 2.5})


@pytest.mark.parametrize("name", names_of(SweepSpec))
def test_every_sweep_that_travels_with_the_package_is_of_its_model(name: str) -> None:
    spec = load_spec(SweepSpec, name)
    assert spec.model is not None
    axes = axes_of(spec.axes, spec.model)
    assert len({one.name for one in combinations(axes)}) == len(combinations(axes))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("axis: {}", "unknown key 'axis': did you mean 'axes'"),
        ("rungs: [200, 100]", "200, 100 do not grow"),
        ("rungs: [4, 100]", "needs at least 8 samples"),
        ("rungs: []", "no rung is given"),
        ("strategy: halved", "strategy"),
    ],
)
def test_a_faulty_specification(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_spec(SweepSpec, str(path))


def test_how_values_are_shown() -> None:
    shown_values = [shown(value) for value in (1.0, 2.5, (0.1, 1.0), {"solver": "euler"}, True)]
    assert shown_values == ["1", "2.5", "0.1:1", "solver=euler", "true"]

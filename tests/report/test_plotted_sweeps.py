"""Figures of sweeps by the command line: undecided rungs, numbers without rank, maps."""

import csv
import hashlib
import io
import itertools
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from harness import Outcome
from run_builder import add_record, make_plan, make_run

from evalsuite.config import Plan
from evalsuite.errors import CorruptionError
from evalsuite.report.sweep_charts import heat_maps, scale_of
from evalsuite.report.sweep_points import points_of
from evalsuite.sweep.directory import ConfigurationEntry, SweepDirectory, SweepManifest
from evalsuite.sweep.tables import RungRow, RungTable

AXES: dict[str, tuple[Any, ...]] = {
    "guidance_scale": (1.0, 2.0, 3.0),
    "num_steps": (5, 10),
    "timeshift": (1.0, 2.0),
}
CSV = ("--x", "guidance_scale", "--format", "csv")


def fid_of(scale: float, steps: int, shift: float) -> float:
    """Least at guidance 2, 10 steps and timeshift 2; no two are equal."""
    return 3 + (scale - 2.125) ** 2 + 5 / steps + (0.5 if shift == 1 else 0.25)


def plan_of(point: Sequence[Any], axes: Sequence[str] = tuple(AXES)) -> Plan:
    """The digest of the weights is as of a file that holds its own name."""
    plan, asked = make_plan(), dict(zip(axes, point, strict=True))
    fields: dict[str, Any] = {"ema": asked.pop("ema", plan.ema)}
    if "weights" in asked:
        fields["weights_sha256"] = hashlib.sha256(asked.pop("weights").encode()).hexdigest()
    setting = plan.sampling.model_dump() | asked
    return plan.model_copy(update=fields | {"sampling": plan.sampling.model_validate(setting)})


def make_sweep(
    root: Path, axes: dict[str, tuple[Any, ...]], fid: Callable[..., float] = fid_of
) -> SweepDirectory:
    """A sweep of which every run is scored on 48 samples and no rung is decided."""
    entries = []
    for place, point in enumerate(itertools.product(*axes.values())):
        plan = plan_of(point, tuple(axes))
        run = make_run(root / "runs" / str(place), plan=plan, num_images=0)
        record = add_record(run, "fid", 48, fid(*point), standard_error=0.25)
        entries.append(
            ConfigurationEntry(
                name=str(place), setting={}, plan_id=plan.plan_id, run=f"../runs/{place}",
                nfe=99, batch_size=16,
            )
        )  # fmt: skip
    manifest = SweepManifest(
        sweep_id="", model="pixnerd-digits", axes=axes, configurations=tuple(entries),
        rungs=(48, 96), strategy="halving", metric="fid", better="lower", budget=None,
        first_seed=0, fresh_first_seed=None, protocol=record.protocol, protocol_name="digits",
        reference="digits-16-train", prefix="digits-",
    )  # fmt: skip
    manifest = manifest.model_copy(update={"sweep_id": manifest.identity})
    return SweepDirectory.create_or_open(root / "sweep", manifest)


def decide(directory: SweepDirectory, fid: Callable[..., float] = fid_of) -> None:
    """Write the rung of 48 samples, ranked by an extrapolated value two below the recorded one."""
    points = itertools.product(*directory.manifest.axes.values())
    values = {str(place): fid(*point) for place, point in enumerate(points)}
    best = min(values.values())
    rows = [
        RungRow(
            name=name, value=value, standard_error=0.25, ranked_by=value - 2,
            difference=value - best, difference_error=0.1, paired=True,
            half_width=None if value == best else 0.5, excluded=False, goes_on=True, others={},
        )
        for name, value in sorted(values.items(), key=lambda one: one[1])
    ]  # fmt: skip
    table = RungTable(num_samples=48, extrapolated=True, may_exclude=True, rows=tuple(rows))
    directory.write_rung(table)


def alone(scales: Sequence[float] = (1.0, 2.0)) -> dict[str, tuple[Any, ...]]:
    """Axes of which one alone has several values."""
    return {"guidance_scale": tuple(scales), "num_steps": (10,), "timeshift": (2.0,)}


def test_before_a_rung_is_decided_the_plain_metric_is_drawn(
    call: Callable[..., Outcome], tmp_path: Path
) -> None:
    directory = make_sweep(tmp_path, alone())
    outcome = call("plot", directory.root, *CSV)
    assert outcome.code == 0, outcome.stderr
    assert "no rung is decided yet, so nothing is ranked" in outcome.stderr
    rows = list(csv.DictReader(io.StringIO(outcome.stdout)))
    assert [float(row["fid"]) for row in rows] == [fid_of(s, 10, 2.0) for s in (1.0, 2.0)]
    decide(directory)
    ranked = call("plot", directory.root, *CSV)
    assert "no rung" not in ranked.stderr
    rows = list(csv.DictReader(io.StringIO(ranked.stdout)))
    assert [float(row["ranked_by"]) for row in rows] == [fid_of(s, 10, 2.0) - 2 for s in (1.0, 2.0)]


def test_numbers_that_no_rung_ranks_are_sent_to_the_plain_metric(
    call: Callable[..., Outcome], tmp_path: Path
) -> None:
    """As of runs that were extended after the sweep; a count that no run has is no matter of y."""
    directory = make_sweep(tmp_path, alone((2.0,)))
    decide(directory)
    run = make_run(tmp_path / "runs" / "0", plan=plan_of((2.0, 10, 2.0)), num_images=0)
    add_record(run, "fid", 512, 3.5, standard_error=0.125)
    refused = call("plot", directory.root, *CSV, "--num-samples", 512)
    (line,) = refused.complaints
    assert refused.code == 3
    assert line.endswith("no rung ranks these: --y fid draws the plain metric")
    drawn = call("plot", directory.root, *CSV, "--num-samples", 512, "--y", "fid")
    assert drawn.code == 0, drawn.stderr
    nobody = call("plot", directory.root, *CSV, "--num-samples", 1024)
    (line,) = nobody.complaints
    assert nobody.code == 3
    assert line.endswith(
        "no input has a fid of the --num-samples and --protocol that are asked for"
    )


def test_a_map_of_three_axes_has_the_cells_of_the_page(
    call: Callable[..., Outcome], tmp_path: Path
) -> None:
    directory = make_sweep(tmp_path, AXES)
    decide(directory)
    points = points_of(directory)
    ((table, tried),) = points.rungs
    page, *_ = heat_maps(points.axes, tried, scale_of(table, "FID"), points.winner, lower=True)
    assert (page.down.name, page.across.name) == ("guidance_scale", "num_steps")
    axes = ("--x", "num_steps", "--group", "sampling.guidance_scale", "--map")
    outcome = call("plot", directory.root, *axes, "--output", "map.svg")
    assert outcome.code == 0, outcome.stderr
    said = re.findall(r"<!-- (.*?) -->", (tmp_path / "map.svg").read_text())
    cells = [text for text in said if re.fullmatch(r"\d\.\d{4}", text)]
    assert cells == [cell[0] for row in page.cells for cell in row if cell is not None]
    assert len(cells) == 6
    held = f"the other axes as the sweep's leader: {page.fixed}"
    assert held.endswith("timeshift=2")
    assert held in said
    assert held in outcome.stderr


def _edited(content: bytes) -> bytes:
    return content.replace(b'"goes_on": true', b'"goes_on": false', 1)


def _unsealed(content: bytes) -> bytes:
    tree = json.loads(content)
    del tree["table_sha256"]
    return json.dumps(tree).encode()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_edited, "was edited, it does not hash to its table_sha256"),
        (_unsealed, "has no table_sha256, so an edit would not be seen"),
        (lambda _: b'{"num_samples": ', "is not JSON (Expecting value at character 16)"),
        (lambda _: b"[]", "has no table_sha256"),
    ],
)
def test_a_table_that_is_not_as_it_was_written_is_refused_with_the_remedy(
    change: Callable[[bytes], bytes], said: str, call: Callable[..., Outcome], tmp_path: Path
) -> None:
    directory = make_sweep(tmp_path, alone())
    decide(directory)
    rung = tmp_path / "sweep" / "rungs" / "00000048.json"
    rung.write_bytes(change(rung.read_bytes()))
    for command in (("status",), ("report",), ("plot", *CSV)):
        outcome = call(command[0], directory.root, *command[1:])
        (line,) = outcome.complaints
        assert (outcome.code, outcome.stdout) == (3, "")
        assert "rungs/00000048.json " + said in line
        assert line.endswith("run the same sweep command again, which writes it anew")


def test_a_table_of_another_rung_or_sweep_is_none_of_this_one(tmp_path: Path) -> None:
    here, there = (
        make_sweep(tmp_path / name, alone(s)) for name, s in (("a", (1, 2)), ("b", (3,)))
    )
    decide(here)
    for directory, path in ((here, "rungs/00000096.json"), (there, "rungs/00000048.json")):
        directory.storage.replace(path, here.storage.read("rungs/00000048.json"))
        with pytest.raises(CorruptionError, match="does not hash to its table_sha256"):
            directory.rungs()


def test_a_table_that_is_gone_is_said(call: Callable[..., Outcome], tmp_path: Path) -> None:
    directory = make_sweep(tmp_path, alone())
    decide(directory)
    assert directory.lacking() == []
    (first,) = directory.rungs()
    directory.write_rung(first.model_copy(update={"num_samples": 96}))
    directory.storage.delete("rungs/00000048.json")
    line = "rungs/00000048.json is not there, although what follows from it is: run the same sweep"
    assert line in call("status", directory.root).stdout
    assert line in call("plot", directory.root, *CSV, "--y", "fid").stderr


WORDS: dict[str, tuple[Any, ...]] = {
    "weights": ("ckpts/step_20.pt", "ckpts/step_100.pt", "<b>new</b>.pt"),
    "ema": ("online", "averaged"),
}


def fid_of_weights(weights: str, ema: str) -> float:
    """The numbers name the place in the sweep's order."""
    first, second = WORDS["weights"].index(weights), WORDS["ema"].index(ema)
    return 10 + first + second / 4


def test_axes_of_words_are_drawn_in_the_sweeps_order(
    call: Callable[..., Outcome], tmp_path: Path
) -> None:
    """Neither by their names nor by their digests, in every format."""
    directory = make_sweep(tmp_path, WORDS, fid_of_weights)
    decide(directory, fid_of_weights)
    axes = ("--x", "weights", "--group", "ema")
    outcome = call("plot", directory.root, *axes, "--format", "csv", "--output", "curve.html")
    assert outcome.code == 0, outcome.stderr
    rows = list(csv.DictReader(io.StringIO(outcome.stdout)))
    for ema in WORDS["ema"]:
        drawn = [row for row in rows if row["curve"].startswith(ema)]
        assert [row["weights"] for row in drawn] == list(WORDS["weights"])
        expected = [fid_of_weights(name, ema) - 2 for name in WORDS["weights"]]
        assert [float(row["ranked_by"]) for row in drawn] == expected
    page = (tmp_path / "curve.html").read_text()
    assert WORDS["weights"][2] not in page
    figure = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)
    assert figure is not None
    data = json.loads(figure[1])
    assert data["x"]["words"] == list(WORDS["weights"])
    assert [curve["x"] for curve in data["curves"]] == [[0, 1, 2], [0, 1, 2]]
    for options in ((*axes, "--map"), ("--x", "ema", "--group", "weights")):
        outcome = call("plot", directory.root, *options, "--output", "figure.svg")
        assert outcome.code == 0, outcome.stderr
        said = re.findall(r"<!-- (.*?) -->", (tmp_path / "figure.svg").read_text())
        told = {text.removesuffix(", extrapolated to infinite N") for text in said}
        assert {"ckpts/step_20.pt", "online", "averaged"} <= told


def test_what_has_words_and_no_place_is_refused_without_repeating_it(
    call: Callable[..., Outcome], tmp_path: Path
) -> None:
    directory = make_sweep(tmp_path, WORDS, fid_of_weights)
    alone = call("plot", directory.root, "--x", "ema", "--format", "csv")
    assert alone.code == 2
    assert "are both at ema = online and differ in weights: give --group weights," in alone.stderr
    refused = call("plot", tmp_path / "runs" / "0", "--x", "ema", "--format", "csv")
    (line,) = refused.complaints
    assert refused.code == 3
    assert "for both fid and ema: it has words, which --group takes" in line


@pytest.mark.parametrize(
    ("is_decided", "x", "said"),
    [
        (True, "guidance_interval", "give --x and --group that tell two of them apart"),
        (False, "guidance_scale", "and no rung is decided yet"),
    ],
)
def test_a_map_that_cannot_be_is_refused_by_its_axes(
    is_decided: bool, x: str, said: str, call: Callable[..., Outcome], tmp_path: Path
) -> None:
    directory = make_sweep(tmp_path, AXES)
    if is_decided:
        decide(directory)
    axes = ("--x", x, "--group", "num_steps", "--map")
    outcome = call("plot", directory.root, *axes, "--output", "map.svg")
    assert outcome.code == 2
    assert "sweep has 3 (guidance_scale, num_steps, timeshift): " in outcome.complaints[-1]
    assert outcome.complaints[-1].endswith(said)

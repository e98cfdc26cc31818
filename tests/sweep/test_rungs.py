"""Rungs that nobody chose: what halving saves by default, and sweeps that were begun before."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from harness import Outcome

from evalsuite.cli.sweep import sweep
from evalsuite.cli.sweep_setup import SweepSetup, set_up
from evalsuite.config import ExtractorSpec, ProtocolSpec, load_spec
from evalsuite.pipeline.measure import Measure
from evalsuite.sweep.rungs import default_rungs
from evalsuite.sweep.scoring import Scale

SWEEP = ("--model", "pixnerd-digits", "--guidance-scale", "1.5,5", "--num-steps", "3")
NOWHERE = {"part": None, "benchmark": None, "shard_format": None, "log": ()}


@pytest.mark.parametrize(
    ("last", "fewest", "rungs"),
    [
        (50000, 1024, (2000, 8000, 50000)),
        (50000, 4096, (4096, 8000, 50000)),
        (50000, 9000, (9000, 50000)),
        (10000, 1024, (2000, 10000)),
        (3000, 1024, (1024, 3000)),
        (2000, 1024, (2000,)),
        (2000, 32, (500, 2000)),
        (60, 32, (60,)),
        (50000, None, (50000,)),
    ],
)
def test_rungs_by_default(last: int, fewest: int | None, rungs: tuple[int, ...]) -> None:
    assert default_rungs(last, fewest) == rungs


def test_a_first_rung_has_half_as_many_samples_as_the_metric_has_dimensions() -> None:
    """Of Inception's 2,048; metrics that nobody extrapolates have none."""
    spec, protocol = (
        load_spec(ExtractorSpec, "inception-2015-12-05"),
        load_spec(ProtocolSpec, "adm"),
    )
    measure = Measure(spec, None, ["fid", "kid"], torch.device("cpu"), protocol)
    assert Scale(measure, "fid").fewest == 1024
    assert Scale(measure, "kid").fewest is None


def begun(*options: str) -> SweepSetup:
    """A sweep of which the directory alone was made."""
    context = sweep.make_context("sweep", [*SWEEP, *options])
    with context.scope(cleanup=False):
        setup = set_up({**context.params, **NOWHERE})
    setup.open()
    return setup


def planned(call: Callable[..., Outcome], *options: str) -> tuple[str, str]:
    """What would be done, and what is said besides."""
    outcome = call("sweep", *SWEEP, *options, "--dry-run")
    assert outcome.code == 0, outcome.stderr
    return outcome.stdout, outcome.stderr


def test_halving_has_a_small_rung_where_it_may_drop(call: Callable[..., Outcome]) -> None:
    alone = "one rung: nothing is dropped before all samples are made"
    lines, _ = planned(call)
    assert "2 configurations, rungs of 500, 2000 samples, halving by fid" in lines
    assert alone not in lines
    lines, _ = planned(call, "--num-samples", "400", "--budget", "200")
    assert "rungs of 100, 400 samples" in lines
    lines, _ = planned(call, "--metric", "inception_score")
    assert "rungs of 2000 samples, halving by inception_score" in lines
    assert alone in lines
    assert "(higher is better)" in lines
    lines, _ = planned(call, "--num-samples", "30")
    assert f"{alone}; below 32 samples no rung may drop any: from --num-samples 64 on" in lines
    lines, _ = planned(call, "--num-samples", "64", "--better", "higher")
    assert "rungs of 32, 64 samples, halving by fid (higher is better)" in lines
    assert alone not in lines
    lines, _ = planned(call, "--strategy", "grid")
    assert "rungs of 2000 samples, grid by fid (lower is better)" in lines
    assert alone not in lines


def test_no_small_rung_has_other_classes_than_the_last(
    call: Callable[..., Outcome], tmp_path: Path
) -> None:
    """500 samples in blocks of 200 are two classes and a half, of ten."""
    alone = "one rung: nothing is dropped before all samples are made; with --labels"
    advice = "the first ones need not have the classes of all: --labels modulo has them from 10"
    (tmp_path / "labels.txt").write_text("\n".join(str(i // 200 % 10) for i in range(3000)))
    for labels, said in (("blocked:200", "blocked:200"), ("file:labels.txt", "file:")):
        lines, _ = planned(call, "--labels", labels)
        assert "rungs of 2000 samples, halving by fid" in lines
        assert f"{alone} {said}" in lines
        assert advice in lines
    for labels in ("blocked:50", "random:1"):
        lines, said = planned(call, "--labels", labels)
        assert "rungs of 500, 2000 samples, halving by fid" in lines
        assert "--labels" not in said
    lines, said = planned(call, "--labels", "blocked:200", "--rungs", "250,500,2000")
    assert "rungs of 250, 500, 2000 samples" in lines
    assert said.count("with --labels blocked:200 the first 250, 500 samples need not have") == 1


def test_what_was_begun_on_one_rung_goes_on(call: Callable[..., Outcome], tmp_path: Path) -> None:
    """It was the default once: by its own place, or in the folder that was given."""
    before = begun("--rungs", "2000")
    given = begun("--rungs", "2000", "--output", str(tmp_path / "mine"))
    assert before.manifest == given.manifest.model_copy(
        update={"configurations": before.manifest.configurations}
    )
    for options, root in (((), before.root), (("--output", "mine"), "mine")):
        lines, said = planned(call, *options)
        assert f"sweep directory {root};" in lines
        assert "rungs of 2000 samples, halving" in lines
        assert f"{root} was begun on one rung and goes on so; --rungs 500,2000" in said
    asked = ("--rungs", "500,2000", "--output", "mine")
    refused = call("sweep", *SWEEP, *asked, "--yes")
    assert refused.code == 2
    assert "mine holds another sweep (it differs in rungs)" in refused.complaints[-1]


def test_the_sweep_that_was_begun_on_small_rungs_comes_first(call: Callable[..., Outcome]) -> None:
    before, now = begun("--rungs", "2000"), begun("--rungs", "500,2000")
    assert before.root != now.root
    lines, said = planned(call)
    assert f"sweep directory {now.root};" in lines
    assert "was begun on one rung" not in said

"""The report's plan, provenance and cost: all that was asked, done and spent."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from page_reader import page_of, section
from run_builder import (
    BATCH,
    COMPUTE_S,
    NUMERICS,
    add_attempt,
    make_plan,
    make_run,
    make_scored_run,
)

from evalsuite.config import Plan, PromptList, TextConditions
from evalsuite.pipeline.numerics import numerics_id
from evalsuite.report.environment import duration, file_size, moment
from evalsuite.report.invocations import reproduce_command
from evalsuite.sampling.sampler import count_nfe


@pytest.mark.parametrize(
    ("seeds", "shown"), [(None, "1000..1031"), ("shared", "1000..1006, shared by all prompts")]
)
def test_seeds_are_those_of_the_samples(tmp_path: Path, seeds: str | None, shown: str) -> None:
    """32 images of 5 prompts: seven rounds, the last of two."""
    prompts = PromptList(count=5, sha256="cd" * 32)
    text = TextConditions(prompts=prompts, negative_prompt="", seeds=seeds)
    content = make_plan().model_dump() | {"num_classes": None, "text": text.model_dump()}
    plan = Plan.model_validate(content)
    run = make_run(tmp_path / "run", plan=plan, names=None, prompts="abcde", num_images=32)
    told = section(run, "plan")
    rows = dict(zip(told.texts["th"], told.texts["td"], strict=True))
    assert rows["Seeds"] == shown


@pytest.mark.parametrize(("ends", "interval"), [("open", "(0.1, 0.9)"), ("closed", "[0.1, 0.9]")])
def test_the_plan_is_told_in_full(tmp_path: Path, ends: str, interval: str) -> None:
    run = make_run(tmp_path / "run", plan=make_plan(ends=ends))
    plan = section(run, "plan")
    rows = dict(zip(plan.texts["th"], plan.texts["td"], strict=True))
    assert rows["Solver"] == "heun"
    assert rows["Steps"] == "50"
    assert rows["Network evaluations (NFE)"].startswith(f"{count_nfe(run.plan.sampling)} per image")
    assert rows["Guidance"].startswith(f"scale 1.75 for t in {interval}, {ends} ends")
    assert rows["Time shift"].startswith("1.5,")
    assert rows["Labels"] == "modulo, all 10 classes"
    assert rows["Seeds"] == "1000..1095"
    assert rows["Batch size"] == str(BATCH)
    assert rows["Image size"].startswith("16 \N{MULTIPLICATION SIGN} 16")
    assert rows["Data type"] == "float32"
    assert rows["uint8 rule"].startswith("half_up: floor(")
    assert rows["Weights"] == f"averaged, SHA-256 {'ab' * 32}"


def test_the_canonical_plan_hashes_to_its_id(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (text,) = section(run, "plan").texts["pre"]
    assert hashlib.sha256(text.encode()).hexdigest() == run.manifest.plan_id
    assert Plan.model_validate(json.loads(text)) == run.plan


def test_other_solvers_and_guidance_off(tmp_path: Path) -> None:
    plan = make_plan()
    sampling = plan.sampling.model_copy(
        update={"solver": "adams", "order": 2, "guidance_scale": 1.0, "last_step": 0.01}
    )
    changes = {"sampling": sampling, "classes": (7, 3)}
    run = make_run(tmp_path / "run", plan=plan.model_copy(update=changes))
    shown = section(run, "plan")
    rows = dict(zip(shown.texts["th"], shown.texts["td"], strict=True))
    assert rows["Solver"] == "adams, order 2"
    assert rows["Guidance"] == "off (scale 1)"
    assert rows["Steps"] == "50, the last 0.01 long before the time shift"
    assert rows["Labels"] == "modulo, 2 of 10 classes: 7, 3"


def test_provenance_lists_invocations_in_order(tmp_path: Path) -> None:
    run = make_scored_run(tmp_path / "run")
    about = section(run, "provenance")
    times = [a["datetime"] for a in about.attributes("time")]
    assert times == ["2026-01-31T12:00:00+00:00", "2026-01-31T13:00:00+00:00"]
    for expected in (
        "2026-01-31 12:00:00 UTC complete 96 2 (0) 40.1 s vm " + numerics_id(NUMERICS)[:8],
        "why=again",
        "-00032.parquet is missing",
        "revision 0123456789ab, with uncommitted changes",
        "ray 2.60.0",
        f"What else decides bits: {numerics_id(NUMERICS)[:16]}",
        "x86_64",
        "scoring 2026-01-31 12:01:00 UTC",
    ):
        assert expected in about.text
    assert about.texts["pre"][0] == (
        "evalsuite run \\\n  --model pixnerd-digits \\\n  --num-samples 90 \\\n"
        "  --output 'runs/my run'"
    )


def test_failed_and_unrecorded_invocations(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    add_attempt(run, "99999999", outcome="workers died", exit_code=6, workers_lost=3)
    text = section(run, "provenance").text
    assert "workers died" in text
    assert "2 (3)" in text
    assert "Shards of 1f2e3d4c have no record of their invocation" in text
    add_attempt(run, "1f2e3d4c")
    assert "have no record" not in section(run, "provenance").text


def test_missing_samples_are_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", num_images=64)
    add_attempt(run)
    assert "of 90 samples asked, 64..89 are missing" in page_of(run).text


def test_cost_counts_what_receipts_say(tmp_path: Path) -> None:
    run = make_scored_run(tmp_path / "run")
    facts = section(run, "cost")
    cost = dict(zip(facts.texts["dt"], facts.texts["dd"], strict=True))
    nfe = count_nfe(run.plan.sampling)
    size = sum(path.stat().st_size for path in (run.root / "images").iterdir())
    assert cost["Worker time for images"] == duration(3 * COMPUTE_S)
    assert cost["Images/s of one worker"] == "8"
    assert cost["Per network evaluation"] == duration(3 * COMPUTE_S / (96 * nfe))
    assert cost["Wall time, invocations"] == duration(41.625)
    assert cost["Wall time, scoring"] == duration(2.5)
    assert cost["Committed on disk"] == file_size(size)
    assert "images 3 96" in facts.text
    assert "vm · cpu · pid 4000 2 64 8.0 s" in facts.text


def test_the_command_is_as_it_was_typed() -> None:
    asked = {
        "model": [["my model.yaml"]],
        "guidance-interval": [["0.1", "0.9"]],
        "tag": [["why=a b"], ["x=$HOME"]],
        "allow-mixed-numerics": [[]],
    }
    assert reproduce_command("run", asked).replace(" \\\n  ", " ") == (
        "evalsuite run --model 'my model.yaml' --guidance-interval 0.1 0.9"
        " --tag 'why=a b' --tag 'x=$HOME' --allow-mixed-numerics"
    )


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (lambda: duration(0.00149), "1.49 ms"),
        (lambda: duration(119.94), "119.9 s"),
        (lambda: duration(140), "2 min 20 s"),
        (lambda: duration(3600 * 30 + 61), "30 h 01 min"),
        (lambda: file_size(999), "999 bytes"),
        (lambda: file_size(1_840_000), "1.8 MB"),
        (lambda: file_size(39 * 10**15), "39000.0 TB"),
        (lambda: moment("2026-01-31T12:00:00+00:00"), "2026-01-31 12:00:00 UTC"),
        (lambda: moment("yesterday"), "yesterday"),
    ],
)
def test_units(shown: Callable[[], str], expected: str) -> None:
    assert shown() == expected

"""`compare` as a person types it, on two real runs that share noise and labels."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from harness import NUM_SAMPLES, PLAN, FinishedRun, Outcome, call_in

Call = Callable[..., Outcome]
SCORE = ("--reference", "digits-16-train", "--extractor", "digits-convnet", "--metrics", "fid")


@pytest.fixture(scope="module")
def guided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plan of `digits_run` with another guidance scale. Not to be changed."""
    folder = tmp_path_factory.mktemp("guided")
    options = ("--num-samples", NUM_SAMPLES, "--num-workers", 1, "--guidance-scale", 3)
    where = ("--tag", "scale=3", "--output", "g3", "--json", "g3.json")
    outcome = call_in(folder, "run", *PLAN, *options, *where)
    assert outcome.code == 0, outcome.stderr
    return folder / "g3"


@pytest.fixture(scope="module")
def outside(digits_run: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images of `digits_run` as an NPZ that says nothing of their making."""
    folder = tmp_path_factory.mktemp("outside")
    outcome = call_in(folder, "export", digits_run.path, "--format", "adm-npz", "--output", "x.npz")
    assert outcome.code == 0, outcome.stderr
    return folder / "x.npz"


def influence(run: Path) -> np.ndarray:
    """Values that the run keeps for FID, read without evalsuite."""
    (path,) = (run / "results").glob("fid-*.npy")
    return np.load(path)


def test_two_runs_that_share_noise_give_a_paired_interval(
    digits_run: FinishedRun, guided: Path, call: Call, tmp_path: Path
) -> None:
    outcome = call("compare", digits_run.path, guided, "--json", "out.json")
    assert outcome.code == 0, outcome.stderr
    assert "A and B differ in sampling.guidance_scale: 1.5, 3.0" in outcome.stdout
    assert "better" not in outcome.stdout
    assert outcome.stdout.count("reference digits-16-train: not comparable with") == 1
    assert outcome.stdout.splitlines()[-1].startswith("retraining typically moves FID by about 1.3")
    content = json.loads((tmp_path / "out.json").read_text())
    row = content["rows"][0]
    gaps = influence(guided) - influence(digits_run.path)
    residuals = np.concatenate([v - v.mean() for v in (gaps[label::10] for label in range(10))])
    expected = np.sqrt((residuals**2).sum() / (NUM_SAMPLES - 10) / NUM_SAMPLES)
    assert row["metric"] == "fid"
    assert row["paired"]
    assert row["standard_error"] == pytest.approx(expected, rel=1e-12)
    low, high = row["interval_95"]
    assert (high - low) / 2 == pytest.approx(1.96 * expected)
    assert f"± {1.96 * expected:.4f}" in outcome.stdout
    assert row["statement"] in outcome.stdout
    assert content["plan_differences"]["B"] == ["sampling.guidance_scale: 1.5, 3.0"]
    assert [one["metric"] for one in content["rows"]] == list(digits_run.json["metrics"])


def test_against_turns_the_difference(digits_run: FinishedRun, guided: Path, call: Call) -> None:
    plain = call("compare", digits_run.path, guided, "--metrics", "fid").stdout
    for name in ("B", guided):
        turned = call("compare", digits_run.path, guided, "--metrics", "fid", "--against", name)
        assert "A - B" in turned.stdout
    assert "B - A" in plain


def test_samples_of_unknown_making_have_daggers(
    digits_run: FinishedRun, outside: Path, call: Call, tmp_path: Path
) -> None:
    assert call("evaluate", outside, *SCORE, "--json", "x.json").code == 0
    outcome = call("compare", digits_run.path, "x.json", "--metrics", "fid", "--json", "out.json")
    assert outcome.code == 0
    assert "digits-FID-200 †" in outcome.stdout
    assert "† not ranked, because it is unknown: label_rule (modulo, unknown)" in outcome.stdout
    (row,) = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert row["dagger"] == ["label_rule", "uint8_rule", "codec"]
    assert row["difference"] == pytest.approx(0, abs=1e-9)
    assert not row["ranked"]


def test_declared_fields_are_kept_and_shown(
    digits_run: FinishedRun, outside: Path, call: Call, tmp_path: Path
) -> None:
    stated = ("--declare", "labels=balanced", "--declare", "uint8=half_up")
    evaluated = call("evaluate", outside, *SCORE, *stated, "--json", "x.json")
    assert "label_rule: balanced (declared, not verified)" in evaluated.stdout
    warning = "reference digits-16-train: not comparable with any FID, sFID, IS"
    assert evaluated.stdout.count(warning) == 1
    (said,) = json.loads((tmp_path / "x.json").read_text())["references"]["digits-16-train"]
    assert "small digits classifier" in said
    (record,) = json.loads((tmp_path / "x.json").read_text())["records"]
    assert record["declared"] == {"label_rule": "balanced", "uint8_rule": "half_up"}
    assert record["protocol"]["label_rule"] is None
    outcome = call(
        "compare", digits_run.path, "x.json", "--metrics", "fid", "--declare", "B:codec=lossless"
    )
    assert outcome.code == 0
    assert "†" not in outcome.stdout
    assert "balanced (declared, not verified)" in outcome.stdout


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("evaluate", "RUN", "--declare", "labels=modulo"), "a run's plan says how"),
        (("evaluate", "NPZ", *SCORE, "--declare", "labels=some"), "labels can be modulo"),
        (("compare", "RUN", "OTHER", "--declare", "labels=modulo"), "known of every input"),
        (("compare", "RUN", "OTHER", "--declare", "A:labels=modulo"), "known to be modulo"),
        (("compare", "RUN", "OTHER", "--declare", "labels"), "[INPUT:]FIELD=VALUE"),
        (("compare", "RUN", "OTHER", "--allow", "codec"), "no two records are known to differ"),
        (("compare", "RUN", "OTHER", "--allow", "colour"), "no protocol has a field 'colour'"),
        (("compare", "RUN"), "at least two inputs"),
        (("compare", "RUN", "OTHER", "--against", "C"), "no input is 'C'"),
        (
            ("compare", "RUN", "OTHER", "--num-samples", "50"),
            "no records of 50 samples; it has 200",
        ),
        (("compare", "RUN", "OTHER", "--protocol", "adm"), "no records of protocol adm"),
        (("compare", "RUN", "OTHER", "--metrics", "fif"), "did you mean 'fid'"),
        (("compare", "RUN", "OTHER", "--group-by", "scale"), "has no such tag or field"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    command: tuple[str, ...],
    words: str,
    digits_run: FinishedRun,
    guided: Path,
    outside: Path,
    call: Call,
) -> None:
    places = {"RUN": digits_run.path, "OTHER": guided, "NPZ": outside}
    outcome = call(*(places.get(word, word) for word in command))
    assert outcome.code in {2, 3}
    (line,) = outcome.complaints
    assert words in line
    assert outcome.stdout == ""


def test_known_differences_are_refused_unless_allowed(
    digits_run: FinishedRun, outside: Path, call: Call, tmp_path: Path
) -> None:
    stated = [
        word
        for f in ("labels=random", "uint8=half_up", "codec=lossless")
        for word in ("--declare", f)
    ]
    assert call("evaluate", outside, *SCORE, *stated, "--json", "x.json").code == 0
    line = ("compare", digits_run.path, "x.json", "--metrics", "fid", "--json", "out.json")
    refused = call(*line)
    assert refused.code == 3
    assert "refused" in refused.stdout
    assert "about 0.1 FID" in refused.stdout
    assert json.loads((tmp_path / "out.json").read_text())["rows"][0]["difference"] is None
    allowed = call(*line, "--allow", "labels")
    assert allowed.code == 0
    assert "allowed, not ranked: label_rule differs" in allowed.stdout
    (row,) = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert "about 0.1 FID" in row["caveats"][0]
    assert row["difference"] is not None


def test_groups_by_a_field_of_the_plan(
    digits_run: FinishedRun, guided: Path, call: Call, tmp_path: Path
) -> None:
    key = "sampling.guidance_scale"
    outcome = call("compare", digits_run.path, guided, "--group-by", key, "--json", "out.json")
    assert outcome.code == 0
    assert "this is not evidence for a method" in outcome.stdout
    content = json.loads((tmp_path / "out.json").read_text())
    assert list(content["groups"]) == ["1.5", "3.0"]
    assert content["rows"][0]["against_first"][0]["half_width"] is None

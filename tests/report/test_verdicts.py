"""The report's section on verdicts: outlines are masks; what stands there is what was judged."""

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_builder import make_run

from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.config import BenchmarkSpec, load_spec
from evalsuite.errors import CorruptionError
from evalsuite.pipeline.export_t2i import export_geneval
from evalsuite.pipeline.geneval_protocol import SWIN_S, VIT_L_14
from evalsuite.pipeline.geneval_scorer import run_lengths
from evalsuite.pipeline.row_file import read_rows, write_rows
from evalsuite.pipeline.stage_names import judged_stages
from evalsuite.report.html import render_report
from evalsuite.report.outlines import mask_of_runs, outline_of
from evalsuite.report.verdict_view import bar_of, spread
from evalsuite.report.verdicts import verdict_sets
from evalsuite.t2i.geneval import GenevalOptions

sys.path.insert(0, str(Path(__file__).parents[1] / "t2i"))
from drawn_run import Drawn


def filled(path: str, height: int, width: int) -> np.ndarray:
    """What a path encloses by the even-odd rule: vertical edges left of each pixel's centre."""
    inside = np.zeros((height, width), dtype=bool)
    for loop in filter(None, path.split("Z")):
        x, y = map(int, re.match(r"M(\d+) (\d+)", loop).groups())
        first = y
        for letter, number in [*re.findall(r"([HV])(\d+)", loop), ("V", str(first))]:
            if letter == "H":
                x = int(number)
                continue
            low, high = sorted((y, int(number)))
            inside[low:high, x:] ^= True
            y = int(number)
    return inside


@pytest.mark.parametrize(
    "scores", ['{"a": NaN}', '{"a": [1]}', "[1]", "[" * 99999, '{"a": 1}, "provenance": {"of": {}}']
)
def test_damaged_numbers_of_others_are_one_error(tmp_path: Path, scores: str) -> None:
    run = make_run(tmp_path / "run")
    content = f'{{"display": "x", "source": "{run.manifest.plan_id}", "scores": {scores}}}'
    run.storage.replace("verdicts/external-geneval.json", content.encode())
    with pytest.raises(CorruptionError, match=r"external-geneval.json cannot be read: remove it"):
        verdict_sets(run, "verdicts")


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 14), st.integers(1, 14), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_an_outline_encloses_its_mask(height: int, width: int, seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < share
    runs = run_lengths(mask)
    np.testing.assert_array_equal(mask_of_runs(runs, (height, width)), mask)
    path = outline_of(mask)
    np.testing.assert_array_equal(filled(path, height, width), mask)
    assert bool(path) == bool(mask.any())


def test_a_large_mask_is_drawn_coarsely() -> None:
    y, x = np.mgrid[:600, :600]
    disc = (x - 300) ** 2 + (y - 300) ** 2 < 250**2
    path = outline_of(disc)
    assert len(path) < 4000
    assert np.mean(filled(path, 600, 600) ^ disc) < 0.02
    with pytest.raises(ValueError, match="runs of 3 pixels are no mask of 2x2"):
        mask_of_runs([1, 2], (2, 2))


def test_cards_are_spread_over_prompts() -> None:
    candidates = [(0, "a"), (1, "a"), (2, "a"), (3, "b"), (4, "c")]
    assert [spread(candidates, n) for n in (1, 3, 4)] == [[0], [0, 3, 4], [0, 1, 3, 4]]
    bar = bar_of("x", {"score": 30.0, "interval": (-5.0, 130.0)}, 100.0, {"m": 80.0})
    assert (bar.share, bar.low, bar.high, bar.ticks[0].share) == (30.0, 0.0, 100.0, 80.0)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    """Judged by the shapes' own detector."""
    root = tmp_path_factory.mktemp("drawn")
    made = Drawn(root, num_prompts=8)
    made.judged(made.run.root, root / "v.jsonl", "--num-workers", 1)
    return made


def wrong_ones(drawn: Drawn) -> set[int]:
    """Indices of the images that were judged wrong."""
    (name,) = drawn.run.storage.names("verdicts")
    _, rows = read_rows(Path(drawn.run.root) / "verdicts" / name)
    return {index for index, row in enumerate(rows) if not row["correct"]}


def test_the_section_shows_what_was_judged(drawn: Drawn) -> None:
    (found,) = verdict_sets(drawn.run, "verdicts")
    assert found.title == "GenEval (shapes detector)"
    assert found.published == ()  # of photographs: no orientation for shapes
    names = [bar.name for bar in found.bars]
    assert names[-1] == "overall"
    assert names[:-1] == [group.name for group in found.groups]
    cards = [card for group in found.groups for card in group.cards]
    cards += [card for group in found.groups for more in group.more for card in more.cards]
    assert len(cards) == len({card.sample for card in cards}) == 32  # right ones, too
    assert {card.sample for card in cards if not card.correct} == wrong_ones(drawn)
    assert {True, False} == {card.correct for card in cards}
    for card in cards:
        assert bool(card.lines) == (not card.correct)
        assert card.uri.startswith("data:image/png;base64,") or card.uri in found.files
        for mark in card.marks:
            assert mark.path.startswith("M")
            assert re.fullmatch(r"(circle|square|triangle|cross) [01]\.\d\d(, \w+)?", mark.words)
    html = render_report(drawn.run)
    assert html.count('<div class="picture">') == len(cards)
    assert 'href="#verdicts"' in html
    overall = found.overall
    assert overall is not None
    assert overall.interval is None  # a tag has one prompt alone
    measured, metrics = html.split('<h2 id="metrics-title">')
    said = [f'value">{overall.value:.4f}', "no interval: one of its parts has none"]
    for part in (measured, metrics.split('<h2 id="samples-title">')[0]):
        assert all(text in part for text in said)
        assert "has been scored yet" not in part
    assert f"GenEval (shapes detector) {overall.value:.4f}, 32 images; 8 prompts" in metrics
    assert "prompts_sha256" in metrics
    (stage,) = judged_stages(drawn.run)
    assert f'rowheader">{stage}</th>' in html
    wrong = next(card for card in cards if not card.correct)
    assert wrong.lines[0].replace(">", "&gt;").replace("<", "&lt;") in html


def test_what_was_found_and_did_not_count_is_drawn_dashed(drawn: Drawn, tmp_path: Path) -> None:
    """With its score and mask: the object at 0.55 is what explains `found 1`."""
    shutil.copytree(drawn.run.root, tmp_path / "run")
    run = RunDirectory.open(tmp_path / "run")
    (name,) = run.storage.names("verdicts")
    header, rows = read_rows(tmp_path / "run/verdicts" / name)
    picked = next(row for row in rows if len(row["prompt"]["include"]) == 1)
    kind = picked["prompt"]["include"][0]["class"]
    other = next(shape for shape in ("circle", "square") if shape != kind)
    unsure = {"class": kind, "box": [1, 1, 5, 5], "score": 0.55, "mask": [33, 4, 987]}
    picked["detections"] += [unsure, {**unsure, "class": other}]
    write_rows(tmp_path / "run/verdicts" / name, header, rows)
    (found,) = verdict_sets(run, "verdicts")
    cards = [card for group in found.groups for card in group.cards]
    cards += [card for group in found.groups for more in group.more for card in more.cards]
    marks = [mark for card in cards for mark in card.marks if not mark.is_kept]
    assert [(mark.words, mark.is_asked) for mark in marks] == [(f"{kind} 0.55", True)]
    assert marks[0].path == "M1 1H5V2H1Z"
    html = render_report(run)
    assert html.count(f"{kind} 0.55, not counted</li>") == 1
    assert html.count(' rejected"><title>') == 1


def test_a_folder_has_the_same_page(drawn: Drawn, tmp_path: Path) -> None:
    export_geneval(drawn.run, 32, drawn.metadata, tmp_path / "images")
    options = ("--num-workers", 1, "--page", tmp_path / "page")
    drawn.judged(tmp_path / "images", tmp_path / "v.jsonl", *options)
    html = (tmp_path / "page/report/index.html").read_text()
    assert html.count('<div class="picture">') == 32
    assert f'<dd class="mono">{tmp_path / "images"}</dd>' in html
    beside = {f"verdicts/{path.name}" for path in (tmp_path / "page/report/verdicts").iterdir()}
    assert beside == set(re.findall(r'src="(verdicts/\d+\.png)"', html))
    (found,) = verdict_sets(drawn.run, "verdicts")
    for group in found.groups:
        assert f'{group.name} <span class="quiet">{group.words}</span>' in html


DEPARTURES = [
    ({}, ""),
    ({}, "other prompts than its 553"),
    ({"options": {"threshold": 0.5}}, "threshold 0.5, not 0.3"),
    ({"detector": {"names_sha256": "0" * 64}}, "other object names, or in another order"),
    (
        {"detector": {"network": {**SWIN_S, "depths": [2, 2, 6, 2]}}},
        "a detector that is not Mask2F",
    ),
    ({"colors": {"network": {"patch": 32}}}, "a CLIP that is not ViT-L/14"),
    ({"tested_by": None}, "not tested on a photograph"),
]


@pytest.mark.parametrize(("changed", "departure"), DEPARTURES)
def test_published_scores_stand_beside_their_own_protocol_alone(
    drawn: Drawn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changed: dict,
    departure: str,
) -> None:
    """The published prompts are those of the file in all cases but one."""
    shutil.copytree(drawn.run.root, tmp_path / "run")
    run = RunDirectory.open(tmp_path / "run")
    (name,) = run.storage.names("verdicts")
    header, rows = read_rows(tmp_path / "run/verdicts" / name)
    spec = load_spec(BenchmarkSpec, "geneval")
    (names,) = (file.place.sha256 for file in spec.files if file.role == "object-names")
    header["detector"] = {"kind": "official detector", "names_sha256": names, "network": SWIN_S}
    header["colors"] = {"network": VIT_L_14}
    header["options"] = GenevalOptions().model_dump()
    for key, value in changed.items():
        header[key] = {**header[key], **value} if isinstance(value, dict) else value
    write_rows(tmp_path / "run/verdicts" / name, header, rows)
    if not departure.startswith("other prompts"):
        ours = spec.model_copy(update={"prompts_sha256": header["prompts_sha256"]})
        monkeypatch.setattr(
            "evalsuite.pipeline.geneval_protocol.load_spec", lambda kind, name: ours
        )
    (found,) = verdict_sets(run, "verdicts")
    assert found.title.startswith(f"GenEval (official detector{'; ' * bool(departure)}{departure}")
    assert found.published == (() if departure else spec.published)
    assert any(bar.ticks for bar in found.bars) == (not departure)
    (note,) = found.notes
    assert ("left out" in note) == bool(departure)
    assert departure in note

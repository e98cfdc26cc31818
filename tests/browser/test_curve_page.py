"""The page of curves in headless Chromium: bands are drawn, names do nothing, nothing is asked."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from board_kit import BAD_NAME, make_record, plan_of

from evalsuite.pipeline.comparison_inputs import entry_of_records
from evalsuite.report.curve_page import render_curves
from evalsuite.report.curves import curves_of
from evalsuite.report.rankings import Ranking

sys.path.insert(0, str(Path(__file__).parent))
from test_report import count, set_width, start_browser

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("curves")
    entries = []
    for group in (BAD_NAME, "b"):
        for scale in (1.0, 2.0, 3.0):
            plan = plan_of("pixnerd-xl-256", guidance_scale=scale)
            error = None if (group, scale) == ("b", 3.0) else 0.1
            record = make_record(scale + 1, error, plan=plan)
            entries.append(entry_of_records("A", f"{group} {scale}", [record], {"by": group}))
    found = curves_of(entries, "guidance_scale", "fid", "tag.by")
    (folder / "curves.html").write_text(render_curves(found), encoding="utf-8")
    driver = start_browser(folder / "profile")
    driver.get("about:blank")
    driver.get_log("browser")
    driver.get_log("performance")
    driver.get((folder / "curves.html").as_uri())
    yield driver
    driver.quit()


def test_it_is_silent_offline_and_not_moved_by_names(page: Any) -> None:
    assert page.title == "FID-50K against guidance scale – evalsuite"
    assert page.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = [
        m["params"]["request"]["url"]
        for m in messages
        if m["method"] == "Network.requestWillBeSent"
    ]
    assert all(url.startswith(("file:", "data:", "blob:", "about:", "chrome:")) for url in asked)
    assert count(page, "tr.point") == 6


def test_bands_and_error_bars_are_drawn(page: Any) -> None:
    """A whole band where every point has an error, else bars."""
    set_width(page, 1280)
    drawn = page.execute_script(
        "return document.getElementById('plot').data.map(t => [t.fill || '', t.x.length])"
    )
    assert drawn == [["toself", 6], ["", 3], ["", 3]]
    assert count(page, "#plot .scatterlayer .trace") == 3


@pytest.mark.parametrize("width", [320, 1280])
def test_it_is_as_wide_as_its_window(page: Any, width: int) -> None:
    set_width(page, width)
    assert page.execute_script("return document.documentElement.scrollWidth") <= width


def test_words_stand_along_the_axis_as_they_are(page: Any, tmp_path: Path) -> None:
    words = (BAD_NAME, "step_20.pt")
    record = make_record(2.0, 0.1, plan=plan_of("pixnerd-xl-256"))
    entries = [
        replace(entry_of_records("A", word, [record], {}), axes={"weights": word}) for word in words
    ]
    ranking = Ranking("A", "fid", "FID", record.protocol, frozenset(), {}, {"weights": words})
    found = curves_of(entries, "weights", "fid", rankings=[ranking])
    (tmp_path / "words.html").write_text(render_curves(found), encoding="utf-8")
    page.get((tmp_path / "words.html").as_uri())
    ticks = page.execute_script(
        "return [...document.querySelectorAll('#plot .xtick')].map(t => t.textContent)"
    )
    assert ticks == list(words)

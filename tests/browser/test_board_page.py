"""The leaderboard in headless Chromium: filters, figure, silence, names that do nothing."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evalsuite.config import LabelRule, load_claims
from evalsuite.pipeline.comparison_inputs import open_entry
from evalsuite.pipeline.leaderboard import build_board
from evalsuite.report.board_page import render_board

sys.path.insert(0, str(Path(__file__).parent))
from test_report import count, set_width, start_browser

pytestmark = pytest.mark.browser
ROWS = "[data-point]:not([hidden])"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    driver = start_browser(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two results, one with a hostile name, and one of random labels, beside shipped claims."""
    from board_kit import BAD_NAME, make_record, plan_of, write_records

    folder = tmp_path_factory.mktemp("board")
    other = plan_of("pixnerd-xl-256", 10**9, guidance_scale=2.0)
    random = plan_of("pixnerd-xl-256", 2 * 10**9, labels=LabelRule(rule="random", seed=1))
    records = (
        make_record(1.94),
        make_record(2.5, plan=other, model=BAD_NAME, gpu_hours=9.0),
        make_record(1.8, plan=random, gpu_hours=20.0),
    )
    paths = [write_records(folder / f"{i}.json", record) for i, record in enumerate(records)]
    claim = load_claims()[0].model_copy(update={"model": BAD_NAME, "fid": 2.65})
    entries = [open_entry(str(path), path) for path in paths]
    (folder / "index.html").write_text(
        render_board(build_board(entries, [*load_claims(), claim])), encoding="utf-8"
    )
    return folder / "index.html"


@pytest.fixture
def page(browser: Any, board: Path) -> Any:
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(board.as_uri())
    return browser


def choose(page: Any, name: str, value: str) -> None:
    """Set a filter as a person does, and let the page hear of it."""
    page.execute_script(
        "const f = document.getElementById('filters').elements[arguments[0]];"
        "f.value = arguments[1]; f.dispatchEvent(new Event('input', {bubbles: true}))",
        name,
        value,
    )


def test_it_is_silent_offline_and_not_moved_by_names(page: Any) -> None:
    assert page.title == "Leaderboard – evalsuite"
    assert page.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = [
        m["params"]["request"]["url"]
        for m in messages
        if m["method"] == "Network.requestWillBeSent"
    ]
    assert all(url.startswith(("file:", "data:", "blob:", "about:", "chrome:")) for url in asked)
    assert any("<script>" in e.text for e in page.find_elements("css selector", "tr.result th"))


def test_the_figure_is_drawn_of_one_group(page: Any) -> None:
    set_width(page, 1280)
    assert count(page, "#plot .scatterlayer .trace") == 2
    points = page.execute_script(
        "return document.getElementById('plot').data.map(t => [t.name, t.x.length])"
    )
    drawn = dict(points)
    assert drawn["results, 95 % interval"] == 1  # the other's model is not shipped: no parameters
    choose(page, "axis", "gpu_hours")
    hours = page.execute_script("return document.getElementById('plot').data.map(t => [...t.x])")
    assert hours == [[1.5, 9.0]]
    assert "do not say GPU-hours" in page.find_element("css selector", "#missing").text
    groups = page.execute_script(
        "return [...document.getElementById('filters').elements.group.options].map(o => o.value)"
    )
    random = next(title for title in groups if title != groups[0] and "256" in title)
    choose(page, "group", random)
    hours = page.execute_script("return document.getElementById('plot').data.map(t => [...t.x])")
    assert hours == [[20.0]]


def test_filters_hide_rows_and_empty_sections(page: Any) -> None:
    fid = count(page, ROWS)
    assert 0 < fid < count(page, "[data-point]")
    choose(page, "resolution", "512")
    at_512 = count(page, ROWS)
    assert 0 < at_512 < fid
    titles = [e.text for e in page.find_elements("css selector", ".protocol:not([hidden]) h3")]
    assert titles
    assert all("512" in title for title in titles)
    choose(page, "resolution", "")
    choose(page, "kind", "result")
    assert count(page, ROWS) == 3
    choose(page, "gpu_hours", "2")
    assert count(page, ROWS) == 1
    assert page.find_element("css selector", "#shown").text.startswith("1 of ")
    page.find_element("css selector", "#filters button").click()
    page.execute_async_script("window.setTimeout(arguments[0], 50)")
    assert count(page, ROWS) == count(page, "[data-point]")


@pytest.mark.parametrize("width", [320, 834, 1280])
def test_it_is_as_wide_as_its_window(page: Any, width: int) -> None:
    set_width(page, width)
    assert page.execute_script("return document.documentElement.scrollWidth") <= width


def test_it_reads_without_its_script(page: Any) -> None:
    page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page.refresh()
        assert count(page, ROWS) == count(page, "[data-point]") > 400
        assert not page.find_element("css selector", "#filters").is_displayed()
    finally:
        page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})

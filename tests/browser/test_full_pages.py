"""Full reports in headless Chromium: charts, sheets on demand, sorting, finding, a sweep's page."""

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import FinishedRun

sys.path.insert(0, str(Path(__file__).parent))
from test_report import contrast, count, set_width, start_browser

pytestmark = pytest.mark.browser
PAGES = ("digits", "classes", "sweep")
HOSTILE = "<script>document.title = 'broken'</script>"
FAILURE = {
    "time": "2026-01-31T12:00:28+00:00",
    "level": "warning",
    "event": "worker-lost",
    "worker": "worker-1",
    "host": "vm",
    "pid": 4000,
    "reason": HOSTILE,
}
OVERFLOWING = (
    "return [...document.querySelectorAll('main *, header *')]"
    ".filter(e => !e.closest('thead, .scroll, .hidden') && e.getBoundingClientRect().width"
    " && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    driver = start_browser(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def pages(digits_run: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A scored run of digits, a run of 30 classes, and a sweep; names are hostile in each."""
    return write_pages(digits_run.path, tmp_path_factory.mktemp("pages"))


def write_pages(digits: Path, root: Path) -> dict[str, Path]:
    """The pages of copies and made-up runs below `root`."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "report"))
    from run_builder import renamed
    from test_sweep_page import make_sweep

    from evalsuite.report.html import write_report
    from evalsuite.report.sweep_page import write_sweep_report

    pages = {
        "digits": write_report(renamed(digits, root / "digits", HOSTILE)),
        "classes": write_report(run_of_classes(root / "classes")),
        "sweep": write_sweep_report(make_sweep(root)),
    }
    return {name: Path(str(path)) for name, path in pages.items()}


def run_of_classes(root: Path) -> Any:
    """96 samples of 30 classes with influence values, sheets and a failure."""
    from run_builder import add_attempt, add_record, make_plan, make_run

    names = [HOSTILE, "w" * 70, *(f"class {number}" for number in range(2, 30))]
    run = make_run(root, plan=make_plan(num_classes=30), names=names)
    add_attempt(run, cost={"gpu_hours": 1.5, "energy_joules": 1e6, "price_per_gpu_hour": 2.0})
    run.storage.replace("attempts/1f2e3d4c.log.jsonl", (json.dumps(FAILURE) + "\n").encode())
    warned = ("statistics of another resize than the samples went through",)
    record = add_record(run, "fid", 96, 5.0, standard_error=0.1, reference_warnings=warned)
    buffer = io.BytesIO()
    np.save(buffer, np.arange(96) % 30 - np.mean(np.arange(96) % 30))
    run.storage.replace(record.influence_path, buffer.getvalue())
    return run


@pytest.fixture
def open_page(browser: Any, pages: dict[str, Path]) -> Any:
    """`open_page("digits")`: the page, freshly opened, with logs that begin there."""

    def opened(name: str, anchor: str = "") -> Any:
        browser.get("about:blank")
        browser.get_log("browser")
        browser.get_log("performance")
        browser.get(pages[name].as_uri() + anchor)
        return browser

    return opened


@pytest.mark.parametrize("name", PAGES)
def test_silent_offline_and_not_moved_by_names(open_page: Any, pages: Any, name: str) -> None:
    page = open_page(name)
    page.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.execute_script("document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
    page.execute_async_script("setTimeout(arguments[0], 200)")
    assert page.title.endswith(("evalsuite report", "evalsuite"))
    assert page.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    beside = pages[name].parent.as_uri()
    assert all(url.startswith((beside, "data:", "about:", "chrome:")) for url in asked)
    broken = "return [...document.images].filter(i => !i.naturalWidth).length"
    assert page.execute_script(broken) == 0


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", [320, 768, 1280])
def test_nothing_is_wider_than_the_window(open_page: Any, name: str, width: int) -> None:
    page = open_page(name)
    set_width(page, width)
    page.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.execute_script(OVERFLOWING) == []
    assert page.execute_script("return document.documentElement.scrollWidth") <= width


def test_charts_are_drawn_and_told(open_page: Any) -> None:
    page = open_page("digits")
    set_width(page, 1280)
    assert count(page, "#features circle") == 200 + 800
    chart = page.find_element("css selector", "#features svg[role=img]")
    assert chart.accessible_name.startswith("Scatter plot of 200 samples")
    box = page.execute_script(
        "const b = document.querySelector('#features .band, #features .line')"
        ".getBoundingClientRect(); return [b.width, b.height]"
    )
    assert min(box) > 50
    page.execute_script("document.querySelector('#features').scrollIntoView()")
    from selenium.webdriver import ActionChains

    circles = page.find_elements("css selector", "#features circle")
    ActionChains(page).move_to_element(circles[-1]).perform()
    assert page.find_element("css selector", ".tip").text.startswith(("sample ", "reference "))


def test_sheets_are_loaded_when_they_are_opened(open_page: Any) -> None:
    page = open_page("classes")
    set_width(page, 1280)
    page.execute_script("document.querySelector('#more-classes').scrollIntoView()")
    loaded = "return document.querySelector('#more-classes img').naturalWidth"
    assert page.execute_script(loaded) == 0
    page.find_element("css selector", "#more-classes summary").click()
    page.execute_async_script(
        "const done = arguments[0], wait = () => document.querySelector('#more-classes img')"
        ".naturalWidth ? done() : setTimeout(wait, 20); wait()"
    )
    row = page.find_element("css selector", "#class-23")
    image = row.find_element("css selector", "img")
    assert image.get_attribute("alt") == "samples 23, 53, 83 of label 23 (class 23)"
    size = image.size
    assert size["width"] / size["height"] == pytest.approx(3, rel=0.05)


def test_an_anchor_opens_its_class(open_page: Any) -> None:
    page = open_page("classes", "#class-25")
    page.execute_async_script("setTimeout(arguments[0], 100)")
    assert page.find_element("css selector", "#class-25").is_displayed()


def test_classes_are_found_by_their_name(open_page: Any) -> None:
    page = open_page("classes")
    page.find_element("css selector", "#samples .find input").send_keys("class 27")
    shown = [e.get_attribute("id") for e in page.find_elements("css selector", "#more-classes tr")
             if e.is_displayed()]  # fmt: skip
    assert shown == ["class-27"]
    assert page.find_element("css selector", "#samples output").text == "1 found"


def test_tables_sort_by_keyboard(open_page: Any) -> None:
    page = open_page("classes")
    set_width(page, 1280)
    table = "#classes table[data-sort]:not(#every-class)"
    influence = f"{table} tbody tr td:nth-child(3)"
    before = [float(e.text) for e in page.find_elements("css selector", influence)]
    assert before == sorted(before, reverse=True)
    button = page.find_elements("css selector", f"{table} th button")[2]
    for order, reverse in (("descending", True), ("ascending", False)):
        button.send_keys("\ue007")
        after = [float(e.text) for e in page.find_elements("css selector", influence)]
        assert after == sorted(before, reverse=reverse)
        heading = page.find_element("css selector", f"{table} [aria-sort]")
        assert heading.get_attribute("aria-sort") == order


def test_a_failure_is_marked(open_page: Any) -> None:
    page = open_page("classes")
    assert count(page, "#timeline .lane .failure") == 1
    assert HOSTILE in page.find_element("css selector", "#timeline .bad ~ td[data-label=Why]").text


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_charts_have_contrast(open_page: Any, scheme: str) -> None:
    page = open_page("sweep")
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    for selector in (".axis", "figcaption", ".legend li", ".sorts, caption"):
        assert contrast(page, selector) >= 4.5, selector
    worst = page.execute_script(
        "return [...document.querySelectorAll('.heat-map td')].map(e => ["
        "getComputedStyle(e).color, getComputedStyle(e).backgroundColor])"
    )
    assert len({background for _, background in worst}) > 3


def test_on_paper_charts_stay_and_controls_go(open_page: Any) -> None:
    page = open_page("digits")
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert not page.find_element("css selector", "nav").is_displayed()
        assert page.find_element("css selector", "#features svg").is_displayed()
        assert page.find_element("css selector", "#classes table").is_displayed()
        pdf = page.execute_cdp_cmd("Page.printToPDF", {})["data"]
        assert len(pdf) > 50_000
    finally:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_heat_maps_scroll_by_keyboard(open_page: Any) -> None:
    page = open_page("sweep")
    region = page.find_element("css selector", "#maps .scroll")
    assert region.get_attribute("tabindex") == "0"
    assert region.aria_role == "region"
    assert count(page, "#maps td.best") == 2

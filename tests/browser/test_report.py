"""The report in headless Chromium: complete, silent, offline, and as wide as its window."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.browser

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WIDTHS = (320, 375, 834, 961, 1280)
"""Phones, a tablet, the narrowest window with whole tables, a desktop."""


def start_browser(profile: Path) -> Any:
    """A fresh Chromium; the test is skipped where there is none."""
    if CHROMIUM is None or shutil.which("chromedriver") is None:
        pytest.skip("no chromium with its driver: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    return webdriver.Chrome(options=options, service=service)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A fresh Chromium that logs its console and its requests."""
    driver = start_browser(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run with results, hostile names, long words and a failed invocation."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "report"))
    from run_builder import add_attempt, make_scored_run

    from evalsuite.report.html import write_report

    names = ["<script>document.title = 'broken'</script>", "a" * 60, *map(str, range(8))]
    run = make_scored_run(tmp_path_factory.mktemp("run") / "run", names=names, model="m" * 80)
    add_attempt(
        run,
        "deadbeef",
        outcome="the machine ran out of memory " * 6,
        exit_code=6,
        hosts=[f"node-{i}.cluster.example.org" for i in range(4)],
        tags={"note": "x" * 150},
    )
    return write_report(run)


@pytest.fixture
def page(browser: Any, report: Path) -> Any:
    """The report, freshly opened, with logs that begin there."""
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(report.as_uri())
    return browser


def set_width(browser: Any, width: int) -> None:
    """Emulate a screen, because a headless window is never narrower than about 500 pixels."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 2, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def count(browser: Any, selector: str) -> int:
    """How many elements match."""
    return len(browser.find_elements("css selector", selector))


def test_everything_is_there_and_drawn(page: Any) -> None:
    set_width(page, 1280)
    assert page.title.endswith("evalsuite report")
    for place in ("metrics", "samples", "plan", "provenance", "cost"):
        assert page.find_element("css selector", f"#{place} h2").is_displayed()
    assert count(page, "#metrics table.metrics tbody tr") == 6
    assert count(page, "#samples img") == 80
    broken = "return [...document.images].filter(i => !i.complete || !i.naturalWidth).length"
    assert page.execute_script(broken) == 0
    sizes = page.execute_script("return [...document.images].map(i => i.clientWidth)")
    assert min(sizes) >= 96
    rendering = "return getComputedStyle(document.images[0]).imageRendering"
    assert page.execute_script(rendering) == "pixelated"


def test_no_complaint_and_no_request(page: Any, report: Path) -> None:
    page.find_element("css selector", "#plan summary").click()
    assert page.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    urls = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert urls[0] == report.as_uri()
    assert all(url.startswith("data:") for url in urls[1:])


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_window(page: Any, width: int) -> None:
    set_width(page, width)
    page.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    outside = page.execute_script(
        "return [...document.querySelectorAll('main *, header *')]"
        ".filter(e => !e.closest('thead') && e.getBoundingClientRect().right > innerWidth + 1)"
        ".map(e => e.outerHTML.slice(0, 80))"
    )
    assert outside == []
    inner, scrolled = page.execute_script(
        "return [window.innerWidth, document.documentElement.scrollWidth]"
    )
    assert inner == width
    assert scrolled <= inner


def test_rows_stack_on_a_phone_and_stay_rows_for_screen_readers(page: Any) -> None:
    set_width(page, 375)
    row = page.find_element("css selector", "#metrics table.metrics tbody tr")
    tops = [cell.rect["y"] for cell in row.find_elements("css selector", "th, td")]
    assert tops == sorted(set(tops))
    label = "return getComputedStyle(arguments[0].querySelector('td'), '::before').content"
    assert page.execute_script(label, row) == '"Value"'
    assert row.aria_role == "row"
    assert row.find_element("css selector", "th").aria_role == "rowheader"


def test_dark_and_light_both_have_contrast(page: Any) -> None:
    seen = []
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        for selector in ("body", ".quiet", ".warning", "a[href]", ".bad"):
            assert contrast(page, selector) >= 4.5, (scheme, selector)
        seen.append(page.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert len(set(seen)) == 2


def contrast(browser: Any, selector: str) -> float:
    """Ratio of WCAG 2 between an element's text and the background behind it."""
    colors = browser.execute_script(
        "let e = document.querySelector(arguments[0]); const ink = getComputedStyle(e).color;"
        "while (getComputedStyle(e).backgroundColor === 'rgba(0, 0, 0, 0)') e = e.parentElement;"
        "const paper = getComputedStyle(e).backgroundColor;"
        "return [ink, paper].map(c => c.match(/[0-9.]+/g).map(Number))",
        selector,
    )
    dark, light = sorted(luminance(color[:3]) for color in colors)
    return (light + 0.05) / (dark + 0.05)


def luminance(rgb: list[float]) -> float:
    """Relative luminance of an sRGB colour in 0..255."""
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in rgb)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_paste_line_is_copied(page: Any) -> None:
    permission = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    page.execute_cdp_cmd("Browser.grantPermissions", permission)
    button = page.find_element("css selector", "#metrics .copy button")
    button.click()
    page.execute_async_script(
        "const done = arguments[0], wait = () => document.querySelector('#metrics [role=status]')"
        ".textContent ? done() : setTimeout(wait, 20); wait()"
    )
    assert button.text == "Copied"
    line = page.find_element("css selector", "#metrics pre").text
    copied = page.execute_async_script("navigator.clipboard.readText().then(arguments[0])")
    assert copied == line
    assert "digits-FID-90" in line


def test_it_reads_without_its_script(page: Any) -> None:
    page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page.refresh()
        assert count(page, ".copy button") == 0
        assert "digits-FID-90" in page.find_element("css selector", "#metrics pre").text
    finally:
        page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})

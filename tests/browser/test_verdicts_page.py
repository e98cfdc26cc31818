"""Verdicts in headless Chromium: marks lie on their images, nothing is wider than the window."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evalsuite.report.html import write_report

sys.path.insert(0, str(Path(__file__).parent))
from test_report import WIDTHS, contrast, count, set_width, start_browser

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The report of a run of drawn shapes that was judged."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "t2i"))
    from drawn_run import Drawn

    root = tmp_path_factory.mktemp("drawn")
    drawn = Drawn(root, num_prompts=8)
    drawn.judged(drawn.run.root, root / "v.jsonl", "--num-workers", 1)
    browser = start_browser(tmp_path_factory.mktemp("profile"))
    browser.get(Path(str(write_report(drawn.run))).as_uri())
    yield browser
    browser.quit()


def test_every_image_is_drawn_with_its_marks(page: Any) -> None:
    set_width(page, 1280)
    page.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.execute_script(
        "document.querySelectorAll('#verdicts img').forEach(i => i.loading = 'eager')"
    )
    assert count(page, "#verdicts .verdicts > li") >= 16
    broken = "return [...document.querySelectorAll('#verdicts img')].filter(i => !i.complete)"
    assert page.execute_script(f"{broken}.length") == 0
    apart = page.execute_script(
        "return [...document.querySelectorAll('#verdicts .picture')].filter(p => {"
        " const i = p.querySelector('img').getBoundingClientRect(), s = p.querySelector('svg');"
        " if (!s) return false; const b = s.getBoundingClientRect();"
        " return Math.abs(b.width - i.width) > 1 || Math.abs(b.height - i.height) > 1"
        " || [...s.querySelectorAll('path')].some(m => { const r = m.getBoundingClientRect();"
        " return !r.width || r.right > i.right + 2 || r.bottom > i.bottom + 2 })}).length"
    )
    assert apart == 0
    shown = page.find_element("css selector", "#verdicts .verdicts li:has(.bad)").text
    assert "expected " in shown
    assert page.get_log("browser") == []


def test_marks_tint_nothing_and_go_and_come_by_the_keyboard(page: Any) -> None:
    set_width(page, 1280)
    style = "getComputedStyle(document.querySelector('.picture {0}'))"
    assert page.execute_script(f"return {style.format('path')}.fill") == "none"
    switch = page.find_element("css selector", "#verdicts input.marks")
    for seen in ("hidden", "visible"):
        switch.send_keys(" ")
        assert page.execute_script(f"return {style.format('svg')}.visibility") == seen


def test_scores_stand_on_the_first_screen_and_prompts_are_folded(page: Any) -> None:
    set_width(page, 1280)
    page.execute_script(
        "document.querySelectorAll('#samples details').forEach(d => d.open = false)"
    )
    value = page.find_element("css selector", "#asked .measured .value")
    assert value.location["y"] < 900
    assert float(value.text) > 0
    assert page.find_element("css selector", "#samples").size["height"] < 200
    assert page.find_element("css selector", "#verdicts").location["y"] < 2000


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_window(page: Any, width: int) -> None:
    set_width(page, width)
    inner, scrolled = page.execute_script(
        "return [window.innerWidth, document.documentElement.scrollWidth]"
    )
    assert (inner, scrolled <= inner) == (width, True)


def test_right_and_wrong_can_be_read_in_both_schemes(page: Any) -> None:
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        for selector in ("#verdicts .good", "#verdicts .bad"):
            assert contrast(page, selector) >= 4.5, (scheme, selector)

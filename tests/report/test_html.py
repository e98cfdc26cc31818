"""The HTML report as a whole: one file that asks for nothing else, whatever people wrote."""

import base64
import hashlib
import itertools
import re
from pathlib import Path

from page_reader import HOSTILE, Page, page_of
from run_builder import (
    add_attempt,
    add_record,
    make_run,
    make_scored_run,
)

from evalsuite.report.html import render_report, write_report


def test_write_report_replaces_the_file_and_is_repeatable(tmp_path: Path) -> None:
    run = make_scored_run(tmp_path / "run")
    path = write_report(run)
    first = path.read_bytes()
    assert path == tmp_path / "run" / "report" / "index.html"
    assert write_report(run).read_bytes() == first
    add_record(run, "fid", 64, 2.0)
    assert write_report(run).read_bytes() != first
    assert [p.name for p in path.parent.iterdir()] == ["index.html"]


def test_nothing_outside_of_the_file_is_asked_for(tmp_path: Path) -> None:
    page = page_of(make_scored_run(tmp_path / "run"))
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name)
    assert "url(" not in page.texts["style"][0]
    assert "@import" not in page.texts["style"][0]


def test_the_policy_admits_the_own_script_alone(tmp_path: Path) -> None:
    page = page_of(make_scored_run(tmp_path / "run"))
    (script,) = page.texts["script"]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policies = [
        a["content"] or ""
        for a in page.attributes("meta")
        if a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert len(policies) == 1
    assert "default-src 'none'" in policies[0]
    assert f"script-src 'sha256-{digest}';" in policies[0]


def test_headings_captions_and_scopes(tmp_path: Path) -> None:
    page = page_of(make_scored_run(tmp_path / "run"))
    assert page.attributes("html")[0]["lang"] == "en"
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))
    titles = ["Asked and measured", "Metrics", "Samples", "Plan", "Provenance", "Timeline", "Cost"]
    assert page.texts["h2"] == titles
    assert len(page.attributes("caption")) == len(page.attributes("table")) > 5
    assert all(a.get("scope") in {"row", "col"} for a in page.attributes("th"))
    ids = [a["id"] for _, a in page.tags if a.get("id")]
    assert len(set(ids)) == len(ids)
    targets = [(a["href"] or "").removeprefix("#") for a in page.attributes("a")]
    assert set(targets) <= set(ids)


def test_heading_and_warning_come_from_the_data(tmp_path: Path) -> None:
    run = make_scored_run(tmp_path / "run")
    header = page_of(run).texts["header"][0]
    for expected in ("pixnerd-digits", run.manifest.plan_id[:12], "90", "96"):
        assert expected in header
    assert "Names that begin with digits- are not" in " ".join(header.split())
    assert "Compare only numbers of equal protocol." in header


def test_a_run_without_results_pixels_or_invocations(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", keep="none")
    page = page_of(run)
    assert "Nothing has been scored yet" in page.text
    assert "--images grid" in page.text
    assert "No invocation has ended yet" in page.text
    assert not page.attributes("img")
    assert "Samples scored" not in page.text


def test_a_run_without_any_shard(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "run", num_images=0))
    assert "No image is committed" in page.text
    assert "1000 and following" in page.text


def test_whatever_people_wrote_is_escaped(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", names=[HOSTILE] * 10, model=HOSTILE)
    quoted = '" onerror="alert(1)'
    add_attempt(run, outcome=HOSTILE, tags={HOSTILE: quoted}, hosts=[HOSTILE], exit_code=1,
                repaired=[HOSTILE], asked={"model": [[HOSTILE]]}, packages={HOSTILE: HOSTILE},
                git={"revision": quoted, "dirty": False}, started_at=quoted)  # fmt: skip
    add_record(run, "fid", 96, 1.0, prefix=HOSTILE, reference=HOSTILE, notes=(HOSTILE, quoted))
    text = render_report(run)
    assert HOSTILE not in text
    assert '" onerror=' not in text
    page = Page(text)
    assert len(page.texts["script"]) == 1
    assert page.attributes("img")[0]["alt"] == f"sample 0, label 0 ({HOSTILE}), seed 1000"
    assert page.texts["h1"] == [HOSTILE]
    assert not [name for _, a in page.tags for name in a if name.startswith("on")]


def test_text_that_is_no_unicode_does_not_stop_the_report(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    add_attempt(run, tags={"name": "\udcff"})
    assert "name=?" in write_report(run).read_text(encoding="utf-8")

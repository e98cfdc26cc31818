"""The HTML report: what stands in it, what never does, and that it is one file."""

import base64
import hashlib
import io
import itertools
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from run_builder import (
    BATCH,
    COMPUTE_S,
    NAMES,
    NUMERICS,
    add_attempt,
    add_record,
    add_shard,
    make_plan,
    make_run,
    make_scored_run,
    pictures,
)

from evalsuite import load_run
from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.config import LabelRule, Plan, PromptList, TextConditions
from evalsuite.errors import CorruptionError
from evalsuite.pipeline.analysis import records_of
from evalsuite.pipeline.comparison_inputs import open_entry
from evalsuite.pipeline.numerics import numerics_id
from evalsuite.report import grid
from evalsuite.report.environment import duration, file_size, moment
from evalsuite.report.html import render_report, write_report
from evalsuite.report.invocations import reproduce_command
from evalsuite.sampling.sampler import count_nfe
from evalsuite.seeding import labels_of

VOID = {"meta", "link", "img", "br"}
NOTHING = "\N{EN DASH}"
HOSTILE = "<script>alert(1)</script>"


class Page(HTMLParser):
    """What a reader of the page gets: texts by element, attributes, and whether tags balance."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in set(self._open):
            self.texts[tag][-1] += data

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return " ".join(self.texts["body"][0].replace(self.texts["script"][0], "").split())


def page_of(run: RunDirectory) -> Page:
    return Page(render_report(run))


def section(run: RunDirectory, name: str) -> Page:
    match = re.search(rf'<section id="{name}".*?</section>', render_report(run), re.DOTALL)
    assert match
    return Page(f"<body>{match[0]}<script></script></body>")


def decoded(attributes: dict[str, str | None]) -> np.ndarray:
    content = base64.b64decode((attributes["src"] or "").partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


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


def test_inception_needs_no_warning(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    add_record(run, "fid", 96, 2.0, prefix="", extractor="inception")
    assert "Names that begin with" not in page_of(run).text
    add_record(run, "inception_score", 96, 2.0, prefix="IS-net-", extractor="other", reference=None)
    assert "Names that begin with IS-net- are not" in page_of(run).text


def test_metrics_are_grouped_by_count_and_ordered(tmp_path: Path) -> None:
    run = make_scored_run(tmp_path / "run")
    metrics = section(run, "metrics")
    assert [h for h in metrics.texts["h3"] if "samples" in h] == ["90 samples", "50 samples"]
    names = [re.sub(r"\s+", " ", th).strip() for th in metrics.texts["th"] if "digits-" in th]
    assert names == [
        "digits-FID-90 ↓ (lower is better)",
        "digits-sFID-90 ↓ (lower is better)",
        "digits-IS-90 ↑ (higher is better)",
        "digits-Precision-90 ↑ (higher is better)",
        "digits-Recall-90 ↑ (higher is better)",
        "digits-FID-50 ↓ (lower is better)",
    ]


def test_a_row_of_metrics_holds_all_of_its_record(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    record = add_record(
        run, "fid", 96, 43.62519, standard_error=0.731, extrapolated=31.25, notes=("few & far",)
    )
    cells = [" ".join(td.split()) for td in section(run, "metrics").texts["td"]]
    assert cells[:5] == [
        "43.6252 ± 0.7310 95 %: 42.1924 to 45.0580", "31.2500", "digits-16-train",
        record.protocol_id, "few & far",
    ]  # fmt: skip


def test_undefined_values_and_missing_errors(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    add_record(run, "inception_score", 96, None, reference=None, notes=("probabilities are 0",))
    cells = [" ".join(td.split()) for td in section(run, "metrics").texts["td"]]
    assert cells[:2] == ["undefined", NOTHING]
    assert "±" not in cells[0]


def test_the_traps_of_a_reference_stand_below_its_numbers_once(tmp_path: Path) -> None:
    run = make_scored_run(tmp_path / "run")
    for path in (run.root / "results").glob("*.json"):
        content = json.loads(path.read_text())
        content["reference_warnings"] = ["a <trap>", "not comparable with FIDs of another"]
        path.write_text(json.dumps(content))
    said = "reference digits-16-train: a <trap>; not comparable with FIDs of another"
    assert section(run, "metrics").text.count(said) == 2  # of 90 samples and of 50


def test_paste_lines_keep_references_apart(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    add_record(run, "fid", 96, 1.5, reference="train")
    add_record(run, "fid", 96, 2.5, reference="heldout", reference_sha256="12" * 32)
    add_record(run, "inception_score", 96, 8.0, reference=None)
    lines = section(run, "metrics").texts["pre"]
    assert len(lines) == 2
    heldout, train = lines
    assert "digits-FID-96 2.5000, digits-IS-96 8.0000; reference heldout;" in heldout
    assert "digits-FID-96 1.5000, digits-IS-96 8.0000; reference train;" in train


def test_an_edited_record_is_not_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    record = add_record(run, "fid", 90, 43.5).sealed()
    run.write_json(record.path, record.model_dump(mode="json"))
    assert "43.5000" in render_report(run)
    run.write_json(record.path, record.model_dump(mode="json") | {"value": 3.5})
    for reader in (
        render_report,
        records_of,
        lambda run: load_run(run.root).records,
        lambda run: open_entry("A", run.root),
    ):
        with pytest.raises(CorruptionError, match=r"results/fid-\w+\.json .*was edited"):
            reader(run)


def test_results_that_are_no_records_are_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    run.write_json("results/fid-1.json", {"value": 3})
    with pytest.raises(CorruptionError, match=r"results/fid-1\.json"):
        render_report(run)


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


def test_the_grid_shows_the_first_samples_of_each_class(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    samples = section(run, "samples")
    assert [re.sub(r"\s+", " ", th) for th in samples.texts["th"]][:2] == [
        "zero label 0",
        "one label 1",
    ]
    images = samples.attributes("img")
    assert len(images) == 8 * 10
    for place, attributes in enumerate(images):
        index = place // 8 + 10 * (place % 8)
        text = f"sample {index}, label {index % 10} ({NAMES[index % 10]}), seed {1000 + index}"
        assert attributes["alt"] == attributes["title"] == text
        np.testing.assert_array_equal(decoded(attributes), pictures(run.plan, index, index + 1)[0])
    assert "more" not in samples.text


def test_more_classes_than_rows_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid, "MOST_CLASSES", 25)
    run = make_run(tmp_path / "run", plan=make_plan(num_classes=30), names=None)
    samples = section(run, "samples")
    assert len(samples.attributes("tr")) == 25
    assert samples.texts["th"][0] == "label 0"
    assert "25 of 30 classes are shown; there are 5 more." in samples.text
    assert samples.attributes("img")[0]["alt"] == "sample 0, label 0, seed 1000"


def test_samples_that_an_earlier_invocation_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", keep="none", num_images=64)
    add_shard(run, 64, 96, "all", "0a0b0c0d")
    images = section(run, "samples").attributes("img")
    assert len(images) == 32
    assert images[0]["alt"] == "sample 70, label 0 (zero), seed 1070"


def test_large_images_are_reduced_and_the_file_stays_small(tmp_path: Path) -> None:
    plan = make_plan(num_classes=20, size=(96, 160))
    run = make_run(tmp_path / "run", plan=plan, names=None, num_images=160)
    path = write_report(run)
    images = page_of(run).attributes("img")
    assert len(images) == 160
    assert path.stat().st_size < 3_000_000
    height, width, _ = decoded(images[0]).shape
    assert max(height, width) in {128, 96, 64, 48, 32}
    assert width / height == pytest.approx(160 / 96, rel=0.05)
    assert f"Shown as JPEG of at most {width} pixels a side" in page_of(run).text


def test_images_above_the_crisp_size_are_thumbnails_even_when_few(tmp_path: Path) -> None:
    small = make_run(tmp_path / "small", plan=make_plan(size=(64, 64)), num_images=32)
    large = make_run(tmp_path / "large", plan=make_plan(size=(72, 72)), num_images=32)
    kinds = [page_of(run).attributes("img")[0]["src"] or "" for run in (small, large)]
    assert [kind.partition(";")[0] for kind in kinds] == ["data:image/png", "data:image/jpeg"]


def test_no_class_has_more_samples_than_the_grid_has_columns(tmp_path: Path) -> None:
    rule = LabelRule(rule="random", seed=3)
    plan = make_plan(num_classes=5).model_copy(update={"labels": rule})
    run = make_run(tmp_path / "run", plan=plan, names=None)
    shown = [i["alt"] for i in section(run, "samples").attributes("img")]
    labels = labels_of(plan, 0, 96)
    for label in range(5):
        first = [i for i, known in enumerate(labels) if known == label][:8]
        expected = [f"sample {i}, label {label}, seed {1000 + i}" for i in first]
        assert [text for text in shown if text and f"label {label}," in text] == expected


def test_the_search_for_samples_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", plan=make_plan(num_classes=30), names=None)
    monkeypatch.setattr(grid, "_SCAN_PIXELS", 32 * 16 * 16)
    assert [i["alt"] for i in section(run, "samples").attributes("img")][:3] == [
        "sample 0, label 0, seed 1000",
        "sample 30, label 0, seed 1030",
        "sample 1, label 1, seed 1001",
    ]


def test_corrupted_pixels_are_not_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    shard = sorted((run.root / "images").iterdir())[0]
    content = bytearray(shard.read_bytes())
    content[1000] ^= 1
    shard.write_bytes(bytes(content))
    with pytest.raises(CorruptionError):
        render_report(run)


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

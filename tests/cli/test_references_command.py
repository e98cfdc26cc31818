"""`references list|show|fetch|build` as a person types them, and evaluating against the results."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from file_server import Site, serving
from harness import Outcome
from PIL import Image
from rich.console import Console

from evalsuite.artifacts.references import local_path
from evalsuite.cli.reference_pages import print_page, print_table
from evalsuite.config import ReferenceSpec, data_root, load_spec, names_of

NAMES = names_of(ReferenceSpec)
HELD_OUT = data_root() / "reference_stats" / "digits-16-heldout.npz"
Call = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    monkeypatch.setenv("EVALSUITE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def lines(show: Callable[[Console], None], width: int) -> list[str]:
    """What a terminal of that width shows, line by line."""
    console = Console(width=width, highlight=False)
    with console.capture() as capture:
        show(console)
    return capture.get().splitlines()


def described(tmp_path: Path, name: str, **fields: Any) -> Path:
    """A reference of a user's own that is to be fetched."""
    texts = ("description", "source", "preprocessing", "program", "not_comparable_with")
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"name": name, **dict.fromkeys(texts, "x"), **fields}))
    return path


def test_the_list_is_one_line_each(call: Call) -> None:
    outcome = call("references", "list")
    header, *rows = outcome.stdout.splitlines()
    assert header.split("  ")[0] == "name"
    assert [row.split()[0] for row in rows] == NAMES
    assert all(len(row) <= 120 for row in rows)
    assert "…" not in outcome.stdout
    row = next(row for row in rows if row.startswith("adm-imagenet-512 "))
    assert re.search(r"512x512 +1,000 +1,281,167 +not fetched +1,000 images: .* coarse", row)
    row = next(row for row in rows if row.startswith("digits-16-train "))
    assert re.search(r"16x16 +1,257 +1,257 +here", row)


@pytest.mark.parametrize("width", [20, 60, 80, 100, 200])
def test_a_narrow_terminal_gets_fewer_columns(width: int) -> None:
    rows = [(load_spec(ReferenceSpec, name), True) for name in NAMES]
    shown = lines(lambda console: print_table(console, rows), width)
    assert [line.split()[0] for line in shown[1:]] == NAMES
    assert all(len(line.rstrip()) <= width for line in shown)
    assert ("file" in shown[0]) == (width >= 60)
    assert ("trap" in shown[0]) == (width >= 100)


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", NAMES)
def test_a_page_fits_and_leaves_nothing_out(name: str, width: int) -> None:
    """Every trap, every origin, every place with its note."""
    spec = load_spec(ReferenceSpec, name)
    shown = lines(lambda console: print_page(console, spec, local_path(spec)), width)
    assert all(len(line) <= width for line in shown)
    words = "".join("".join(shown).split())
    texts = [*spec.traps, spec.coarse or "", spec.not_comparable_with, spec.description]
    texts += [spec.source, spec.preprocessing, spec.program, spec.split or "", str(spec.path)]
    texts += [text for place in spec.places for text in (place.url, place.note or "")]
    texts += [spec.sha256 or "not published", spec.extractor or "", *spec.protocols]
    for text in texts:
        assert "".join(text.split()) in words


def test_a_page_says_how_to_have_it(call: Call) -> None:
    shown = call("references", "show", "jit-imagenet-256").stdout
    assert "evalsuite references fetch jit-imagenet-256 --allow-unverified" in shown
    shown = call("references", "show", "adm-imagenet-256").stdout
    assert shown.split("to have it: ")[1].splitlines()[0].strip() == (
        "evalsuite references fetch adm-imagenet-256"
    )
    assert f"here: {HELD_OUT}" in call("references", "show", "digits-16-heldout").stdout


@pytest.mark.parametrize("name", ["digits-16-train", "adm-imagenet-512", "edm2-img512-dinov2"])
def test_the_yaml_is_a_reference_of_the_same_meaning(name: str, call: Call, tmp_path: Path) -> None:
    path = tmp_path / "copy.yaml"
    path.write_text(call("references", "show", name, "--yaml").stdout)
    copy, original = load_spec(ReferenceSpec, str(path)), load_spec(ReferenceSpec, name)
    same = {"file", "path"}
    assert copy.model_dump(exclude=same) == original.model_dump(exclude=same)
    assert local_path(copy) == local_path(original)


def test_fetch_then_evaluate(call: Call, tmp_path: Path) -> None:
    """From a real server, over a line that breaks; the second fetch asks nobody."""
    content = HELD_OUT.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    spec = load_spec(ReferenceSpec, "digits-16-heldout")
    fields = {"extractor": spec.extractor, "extractor_id": spec.extractor_id}
    with serving(Site({"held.npz": content})) as site:
        places = [{"url": f"{site.url}held.npz", "filename": "held.npz"}]
        path = described(tmp_path, "far", places=places, sha256=sha256, **fields)
        early = call("evaluate", HELD_OUT, "--reference", path, "--metrics", "fid")
        assert early.code == 3
        assert "fetch it with `evalsuite references fetch far`" in early.stderr
        site.break_after = [100_000]
        first = call("references", "fetch", path)
        again = call("references", "fetch", path)
        assert [asked is None for _, asked in site.requests] == [True, False]
    assert first.code == 0, first.stderr
    assert re.search(
        rf"^far  \S+held\.npz  SHA-256 {sha256} \(as published\)$", first.stdout.strip()
    )
    assert "held.npz 240,352 of 240,352 bytes" in first.stderr
    assert (again.code, again.stdout, again.stderr) == (0, first.stdout, "")
    options = ("--reference", path, "--metrics", "fid", "--json", "out.json")
    outcome = call("evaluate", HELD_OUT, *options)
    assert outcome.code == 0, outcome.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    assert abs(result["metrics"]["fid"]["value"]) < 1e-6


def test_fetching_what_nobody_has_hashed(call: Call, tmp_path: Path) -> None:
    with serving(Site({"held.npz": HELD_OUT.read_bytes()})) as site:
        places = [{"url": f"{site.url}held.npz", "filename": "held.npz"}]
        path = described(tmp_path, "far", places=places)
        refused = call("references", "fetch", path)
        assert (refused.code, refused.stdout, site.requests) == (2, "", [])
        (line,) = refused.complaints
        assert "pass --allow-unverified" in line
        taken = call("references", "fetch", path, "--allow-unverified")
    assert taken.code == 0, taken.stderr
    assert "(not checked: nobody has published it)" in taken.stdout


def test_fetching_other_bytes(call: Call, tmp_path: Path, cache: Path) -> None:
    with serving(Site({"held.npz": b"something else"})) as site:
        places = [{"url": f"{site.url}held.npz", "filename": "held.npz"}]
        path = described(tmp_path, "far", places=places, sha256="ab" * 32)
        outcome = call("references", "fetch", path)
    assert (outcome.code, outcome.stdout) == (3, "")
    assert "it was removed" in outcome.complaints[-1]
    assert not list(cache.rglob("held.npz"))


def test_fetching_what_travels_with_the_package(call: Call) -> None:
    """Checked and shown; nothing is asked of anyone."""
    outcome = call("references", "fetch", "digits-16-train", "digits-16-heldout")
    assert outcome.code == 0
    assert [line.split()[0] for line in outcome.stdout.splitlines()] == [
        "digits-16-train",
        "digits-16-heldout",
    ]


def test_build_then_evaluate(call: Call, tmp_path: Path) -> None:
    """A folder of PNGs becomes a reference; the set's distance to itself is zero."""
    folder = tmp_path / "pngs"
    folder.mkdir()
    for i, image in enumerate(np.load(HELD_OUT)["arr_0"][:150]):
        Image.fromarray(image).save(folder / f"{i:03}.png")
    options = ("--name", "mine", "--output", "refs", "--extractor", "digits-convnet")
    outcome = call("references", "build", "pngs", *options, "--with", "images", "--with", "moments")
    assert outcome.code == 0, outcome.stderr
    assert outcome.stdout.split() == ["refs/mine.npz", "refs/mine.yaml"]
    assert "images 150/150" in outcome.stderr
    shown = call("references", "show", "refs/mine.yaml")
    assert "statistics of: 150 images" in shown.stdout
    assert re.search(r"source_listing_sha256:\s+[0-9a-f]{64}", shown.stdout)
    metrics = ("--metrics", "fid,sfid,precision,recall", "--json", "out.json")
    scored = call("evaluate", "pngs", "--reference", "refs/mine.npz", *metrics)
    assert scored.code == 0, scored.stderr
    records = json.loads((tmp_path / "out.json").read_text())["metrics"]
    values = {name: record["value"] for name, record in records.items()}
    assert abs(values["fid"]) < 1e-6
    assert abs(values["sfid"]) < 1e-6
    assert (values["precision"], values["recall"]) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--with", "image"), "--with 'image': did you mean 'images'?"),
        (("--with", ","), "--with names nothing to keep"),
        (("--with", "moments"), "--extractor is needed for moments"),
        (("--size", "256"), "--size needs --preprocess"),
        (("--preprocess", "adm-crop"), "--preprocess adm-crop needs --size"),
        (("--seed", "3"), "--seed needs --per-class"),
        (("--extractor", "digits-convne"), "did you mean 'digits-convnet'?"),
        (("--name", "a b", "--with", "images"), "--name 'a b'"),
    ],
)
def test_builds_that_cannot_be_carried_out(
    options: tuple[str, ...], words: str, call: Call, tmp_path: Path
) -> None:
    named = () if "--name" in options else ("--name", "mine")
    outcome = call("references", "build", HELD_OUT, *named, "--output", "refs", *options)
    assert (outcome.code, outcome.stdout) == (2, "")
    (line,) = outcome.complaints
    assert words in line
    assert not (tmp_path / "refs" / "mine.npz").exists()

"""`models list` and `models show`: what they say, and that it fits the terminal."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from harness import Outcome
from rich.console import Console

from evalsuite.cli.preset_pages import print_page, print_table
from evalsuite.config import ModelPreset, load_spec, names_of, rooted
from evalsuite.pipeline.conditions import own_encoder

NAMES = names_of(ModelPreset)
Call = Callable[..., Outcome]


def preset(name: str) -> ModelPreset:
    return load_spec(ModelPreset, name)


def lines(show: Callable[[Console], None], width: int) -> list[str]:
    """What a terminal of that width shows, line by line."""
    console = Console(width=width, highlight=False)
    with console.capture() as capture:
        show(console)
    return capture.get().splitlines()


def test_the_list_is_one_line_each(call: Call) -> None:
    """At the 120 columns of a pipe nothing wraps and nothing is cut."""
    outcome = call("models", "list")
    header, *rows = outcome.stdout.splitlines()
    shown = [row.split()[0] for row in rows]
    assert sorted(shown) == NAMES
    jits = [name for name in shown if name.startswith("jit-")]
    assert jits == ["jit-b-16-256", "jit-l-16-256", "jit-h-16-256"]
    epochs = [name for name in shown if name.startswith("pixeldit-xl-256-ep")]
    assert epochs == [f"pixeldit-xl-256-ep{count}" for count in (80, 160, 320)]
    assert all(len(row) <= 120 for row in rows)
    assert "…" not in outcome.stdout
    titles = ["name", "size", "condition", "params", "sampler", "guidance", "settings", "licence"]
    assert header.split() == titles
    (row,) = (row for row in rows if row.startswith("pixeldit-xl-256-ep320 "))
    for words in ("256x256", "1000 classes", "797.4 M", "adams2_constant 100", "2.75 in 0.1..0.9"):
        assert words in row
    assert row.split()[-2:] == ["published", "NSCLv1"]
    assert "inferred" in next(row for row in rows if row.startswith("pixnerd-xl-512 "))


@pytest.mark.parametrize("width", [24, 50, 80, 100, 200])
def test_a_narrow_terminal_gets_fewer_columns(width: int) -> None:
    """Whole ones, from the left, and one line for each preset still."""
    shown = lines(lambda console: print_table(console, [preset(name) for name in NAMES]), width)
    assert [line.split()[0] for line in shown[1:]] == NAMES
    assert all(len(line) <= width for line in shown)
    assert not any("…" in line for line in shown)
    assert ("sampler" in shown[0]) == (width >= 80)
    assert ("licence" in shown[0]) == (width >= 120)


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", NAMES)
def test_a_page_fits_and_leaves_nothing_out(name: str, width: int) -> None:
    """Every setting with its value and source, every place, every claim, all within the width."""
    found = preset(name)
    shown = lines(lambda console: print_page(console, found), width)
    assert all(len(line) <= width for line in shown)
    words = "".join("\n".join(shown).split())
    assert found.sampling is not None
    claims = [text for claim in found.published for text in (claim.source, claim.note or "")]
    values = [found.title, found.licence, found.family, f"{found.parameters:,}", found.weights.ema]
    values += [f"{place.repo}, {place.filename}" for place in found.weights.places]
    values += [text for s, entry in found.with_solver.items() for text in (f"with {s}", *entry)]
    values += [*found.sampling.model_fields_set, str(found.path)]
    if width == 120:
        values += [str(value) for value in found.network.values()]
    for value in values:
        assert "".join(value.split()) in words
    for text in (*found.sources.values(), *claims):
        assert all(word in words for word in text.split() if len(word) < width // 6)


def test_a_page_of_ones_own_says_what_it_extends(call: Call, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: pixnerd-digits\nname: mine\n")
    assert "mine.yaml, which extends pixnerd-digits: what" in " ".join(
        call("models", "show", "./mine.yaml").stdout.split()
    )


def test_a_page_says_whose_the_settings_and_the_figures_are(call: Call) -> None:
    shown = call("models", "show", "pixnerd-xl-512").stdout
    assert "settings are inferred, not published as a whole" in shown
    assert "claims of their sources, nothing measured here" in shown
    assert "2.42" in shown
    assert "2.84" in shown
    missing = call("models", "show", "pixeldit-t2i-1024").stdout
    assert re.search(r"instruction +missing +eight lines", missing)
    rescored = call("models", "show", "jit-h-16-256").stdout
    assert re.search(r"1\.90 +300\.8 +- +- +adm", rescored)
    assert re.search(r"1\.86 +303\.4 +0\.78 +0\.62 +jit", rescored)
    unreleased = call("models", "show", "pixnerd-l-256").stdout
    assert "no place to fetch them from: give a file with --weights" in unreleased


@pytest.mark.parametrize("name", ["pixnerd-digits", "pixnerd-shapes", "pixnerd-xl-512"])
def test_the_yaml_is_a_preset_of_the_same_meaning(name: str, call: Call, tmp_path: Path) -> None:
    """With `extends` resolved and its paths absolute, so that it may stand anywhere."""
    outcome = call("models", "show", name, "--yaml")
    path = tmp_path / "copy.yaml"
    path.write_text(outcome.stdout, encoding="utf-8")
    assert "extends" not in yaml.safe_load(outcome.stdout)
    copy, original = preset(str(path)), preset(name)
    same = {"weights", "text", "path", "card"}
    assert copy.model_dump(exclude=same) == original.model_dump(exclude=same)
    if original.weights.file:
        assert copy.weights.file == str(original.path.parent / original.weights.file)
    if original.text and copy.text:
        assert original.text.prompts
        prompts = (original.path.parent / original.text.prompts).resolve()
        assert copy.text.prompts == str(prompts)
        assert own_encoder(copy) == own_encoder(original)
    if original.card:
        assert copy.card == str(original.path.parent / original.card)


def test_a_pipelines_folder_is_found_from_anywhere(tmp_path: Path) -> None:
    """A repository of a hub is the same everywhere."""
    (tmp_path / "dit").mkdir()
    for family, moved in (("dit", str(tmp_path / "dit")), ("facebook/DiT", "facebook/DiT")):
        content = {"family": f"diffusers:{family}"}
        assert rooted(content, tmp_path) == {"family": f"diffusers:{moved}"}


def test_brackets_in_a_preset_are_text(tmp_path: Path, call: Call) -> None:
    """Rich reads `[red]` as markup; what a preset says is shown as it stands."""
    path = tmp_path / "mine.yaml"
    content = {"extends": "pixnerd-xl-256", "name": "mine", "title": "[red]T[/red]"}
    content |= {"description": "D [bold] [/]", "licence": "[link=x]L", "weights": {"ema": "[b]"}}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    outcome = call("models", "show", path)
    assert outcome.code == 0
    for words in ("[red]T[/red]", "D [bold] [/]", "licence: [link=x]L", "ema: [b]"):
        assert words in outcome.stdout

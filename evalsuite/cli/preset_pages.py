"""Model presets as people read them: one table of all, one page of each."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from evalsuite.cli.pages import GAP, print_columns, print_line, print_section
from evalsuite.config import ModelPreset, PublishedResult, TextPreset, read_yaml

_FIGURES = {
    "fid": "FID",
    "sfid": "sFID",
    "inception_score": "IS",
    "precision": "prec.",
    "recall": "recall",
    "geneval": "GenEval",
    "dpg": "DPG",
}


def in_order(presets: Iterable[ModelPreset]) -> list[ModelPreset]:
    """Models of one name together, the smaller ones first, then by image size and name."""

    def order(preset: ModelPreset) -> tuple[str, int, int, list[int], str]:
        stem, _, rest = preset.name.partition("-")
        numbers = [int(digits) for digits in re.findall(r"\d+", rest)]
        return stem, preset.parameters or 0, preset.size[0] * preset.size[1], numbers, rest

    return sorted(presets, key=order)


def print_table(console: Console, presets: Sequence[ModelPreset]) -> None:
    """One line for each preset; the last columns are left out where the console is too narrow."""
    columns: dict[str, Sequence[str]] = {
        "name": [preset.name for preset in presets],
        "size": [_times(preset.size) for preset in presets],
        "condition": [_condition(preset) for preset in presets],
        "params": [_parameters(preset.parameters) for preset in presets],
        "sampler": [_sampler(preset) for preset in presets],
        "guidance": [_guidance(preset) for preset in presets],
        "settings": [preset.settings_are for preset in presets],
        "licence": [preset.licence for preset in presets],
    }
    print_columns(console, columns, right=("params",))


def print_page(console: Console, preset: ModelPreset) -> None:
    """Everything about one preset, in sections."""
    console.print(Text(f"{preset.name}: {preset.title}", style="bold"))
    print_line(console, preset.description)
    print_section(console, "Network")
    _network(console, preset)
    print_section(console, "Weights")
    _weights(console, preset)
    if preset.text is not None:
        print_section(console, "Text")
        _text(console, preset.text, preset.sources)
    print_section(console, f"Sampling: settings are {_SETTINGS[preset.settings_are]}")
    _sampling(console, preset)
    print_section(console, "Evaluation")
    evaluation = preset.evaluation.model_dump(exclude_none=True)
    print_line(console, ", ".join(f"{key} {value}" for key, value in evaluation.items()))
    if preset.published:
        print_section(console, "Published results: claims of their sources, nothing measured here")
        _published(console, preset.published)
    console.print()
    base = read_yaml(preset.path).get("extends")
    extends = f", which extends {base}: what it does not say is taken from there" if base else ""
    print_line(console, f"file: {preset.path}{extends}")


_SETTINGS = {
    "published": "published",
    "inferred": "inferred, not published as a whole",
    "own": "the preset's own",
}


def _network(console: Console, preset: ModelPreset) -> None:
    count = f", {preset.parameters:,} parameters" if preset.parameters else ""
    print_line(console, f"family: {preset.family}{count}")
    if preset.network:
        print_line(console, ", ".join(f"{key} {value}" for key, value in preset.network.items()))
    for key in preset.network.keys() & preset.sources.keys():
        print_line(console, f"{key}: {preset.sources[key]}", indent=4)
    print_line(
        console, f"size: {_times(preset.size)}, {_condition(preset)}, batch {preset.batch_size}"
    )


def _weights(console: Console, preset: ModelPreset) -> None:
    weights = preset.weights
    note = f" ({preset.licence_note})" if preset.licence_note else ""
    print_line(console, f"licence: {preset.licence}{note}")
    if weights.file:
        print_line(console, f"file: {weights.file}")
        print_line(console, f"sha256: {weights.sha256 or 'not pinned'}")
    for place in weights.places:
        print_line(console, f"{place.layout}: {place.repo}, {place.filename}")
        if place.note:
            print_line(console, place.note, indent=4)
    if weights.note:
        print_line(console, f"note: {weights.note}")
    if not weights.file and not weights.places:
        print_line(console, "no place to fetch them from: give a file with --weights")
    ema_source = preset.sources.get("ema")
    print_line(console, f"ema: {weights.ema}" + (f" ({ema_source})" if ema_source else ""))


def _text(console: Console, text: TextPreset, sources: Mapping[str, str]) -> None:
    encoder = text.encoder
    print_line(console, f"encoder: {encoder.kind}, {encoder.repo}")
    names = ("max_length", "width", "attention", "dtype")
    print_line(console, ", ".join(f"{name} {getattr(encoder, name)}" for name in names))
    values = {"empty_prompt": encoder.empty_prompt, "negative_prompt": repr(text.negative_prompt)}
    if text.lacks_instruction or encoder.instruction:
        count = len(encoder.instruction)
        values["instruction"] = "missing" if text.lacks_instruction else f"{count} lines"
    if text.shared_seeds:
        values["seeds"] = "of the published figures: a few that all prompts share (--shared-seeds)"
    _values(console, values, sources)


def _sampling(console: Console, preset: ModelPreset) -> None:
    if preset.sampling is not None:
        values = preset.sampling.model_dump(exclude_none=True)
        given = preset.sampling.model_fields_set
        values = {key: value for key, value in values.items() if key in given}
    else:
        values = dict(preset.settings or {})
    with_others = {
        f"with {solver}": ", ".join(f"{key} {_shown(value)}" for key, value in entry.items())
        for solver, entry in preset.with_solver.items()
        if entry
    }
    values |= {"uint8_rule": preset.uint8_rule, **with_others}
    _values(console, values, preset.sources)


def _values(console: Console, values: Mapping[str, Any], sources: Mapping[str, str]) -> None:
    """Settings, one a line, with the source of each where one is known."""
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, GAP, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold", min_width=6)
    table.add_column(overflow="fold", style="dim")
    for key, value in values.items():
        table.add_row(Text(key), Text(_shown(value)), Text(sources.get(key, "")))
    console.print(Padding(table, (0, 0, 0, 2)))


def _shown(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _published(console: Console, results: Iterable[PublishedResult]) -> None:
    results = list(results)
    figures = {
        key: title
        for key, title in _FIGURES.items()
        if any(getattr(result, key) is not None for result in results)
    }
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    for title in figures.values():
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("protocol", no_wrap=True)
    table.add_column("setting and source", overflow="fold")
    for result in results:
        about = [part for part in (result.setting, result.note) if part]
        table.add_row(
            *(_figure(key, getattr(result, key)) for key in figures),
            Text(result.protocol or "-"),
            Text("; ".join([*about, result.source])),
        )
    console.print(Padding(table, (0, 0, 0, 2)))


def _figure(key: str, number: float | None) -> str:
    """As published, where two decimals are usual; YAML reads 0.80 as 0.8."""
    if number is None:
        return "-"
    short = key not in {"inception_score", "dpg"} and round(number, 2) == number
    return f"{number:.2f}" if short else f"{number:g}"


def _times(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _condition(preset: ModelPreset) -> str:
    return "text" if preset.text else f"{preset.num_classes} classes"


def _parameters(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e6:.1f} M"


def _sampler(preset: ModelPreset) -> str:
    if preset.sampling is None:
        return "its own"
    order = f"{preset.sampling.order}" if preset.sampling.order else ""
    return f"{preset.sampling.solver}{order} {preset.sampling.num_steps}"


def _guidance(preset: ModelPreset) -> str:
    if preset.sampling is None:
        return "-"
    scale, (low, high) = preset.sampling.guidance_scale, preset.sampling.guidance_interval
    if scale == 1:
        return "off"
    return f"{scale:g}" if (low, high) == (0, 1) else f"{scale:g} in {low:g}..{high:g}"

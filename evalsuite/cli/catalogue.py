"""`evalsuite models`, `references` and `extractors`: what there is by name."""

import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console


@click.group(
    help="List or show model presets.",
    epilog="Examples:\n\n\b\n  evalsuite models list\n  evalsuite models show pixnerd-xl-512",
)
def models() -> None:
    """The group of two commands below."""


@models.command(
    "list",
    help="A table of the model presets.",
    epilog="Examples:\n\n\b\n  evalsuite models list\n  evalsuite models list | grep 512",
)
def _list_models() -> None:
    from evalsuite.cli.preset_pages import print_table
    from evalsuite.config import ModelPreset, load_spec, names_of

    print_table(_console(), [load_spec(ModelPreset, name) for name in names_of(ModelPreset)])


@models.command(
    "show",
    help="One model preset: network, weights, sampling with its sources, published results.",
    epilog="Examples:\n\n\b\n  evalsuite models show pixnerd-xl-512\n"
    "  evalsuite models show ./mine.yaml --yaml",
)
@click.argument("name")
@click.option("--yaml", "as_yaml", is_flag=True, help="The preset as YAML, `extends` resolved.")
def _show_model(name: str, as_yaml: bool) -> None:
    from evalsuite.cli.preset_pages import print_page
    from evalsuite.config import ModelPreset, load_spec

    preset = load_spec(ModelPreset, name)
    if as_yaml:
        content = preset.model_dump(mode="json", exclude_unset=True)
        for section, key in (("weights", "file"), ("text", "prompts")):
            if content.get(section, {}).get(key):  # so that the YAML means the same anywhere
                content[section][key] = str((preset.path.parent / content[section][key]).resolve())
        _echo_yaml(content, preset.path)
    else:
        print_page(_console(), preset)


def _catalogue(kind_name: str, plural: str, example: str) -> click.Group:
    """A group with `list` and `show` over one kind of YAML file."""

    @click.group(
        name=plural,
        help=f"List or show {plural}.",
        epilog=f"Examples:\n\n\b\n  evalsuite {plural} list\n  evalsuite {plural} show {example}",
    )
    def group() -> None:
        pass

    @group.command(
        "list",
        help=f"One line for each of the {plural}.",
        epilog=f"Examples:\n\n\b\n  evalsuite {plural} list\n  evalsuite {plural} list | wc -l",
    )
    def list_all() -> None:
        from evalsuite.config import load_spec, names_of

        kind = _kind(kind_name)
        for name in names_of(kind):
            spec: Any = load_spec(kind, name)
            click.echo(f"{name:24} {getattr(spec, 'title', None) or spec.description}")

    @group.command(
        "show",
        help=f"Everything about one of the {plural}.",
        epilog=f"Examples:\n\n\b\n  evalsuite {plural} show {example}\n"
        f"  evalsuite {plural} show ./mine.yaml",
    )
    @click.argument("name")
    def show(name: str) -> None:
        from evalsuite.config import load_spec

        spec: Any = load_spec(_kind(kind_name), name)
        _echo_yaml(spec.model_dump(mode="json"), spec.path)

    return group


def _console() -> "Console":
    """Stdout; 120 columns when it is not a terminal."""
    from rich.console import Console

    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120, highlight=False)


def _echo_yaml(content: dict[str, Any], path: "Path") -> None:
    import yaml

    click.echo(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100), nl=False)
    click.echo(f"# {path}")


def _kind(name: str) -> Any:  # noqa: ANN401 - one of two classes
    from evalsuite import config

    return {"reference": config.ReferenceSpec, "extractor": config.ExtractorSpec}[name]


references = _catalogue("reference", "references", "digits-16-train")
extractors = _catalogue("extractor", "extractors", "digits-convnet")

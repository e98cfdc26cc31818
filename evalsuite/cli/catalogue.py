"""`evalsuite models` and `extractors`: what there is by name."""

import sys
from typing import TYPE_CHECKING, Any

import click

from evalsuite.errors import UsageError

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
    from evalsuite.cli.preset_pages import in_order, print_table
    from evalsuite.config import ModelPreset, load_spec, names_of

    presets = [load_spec(ModelPreset, name) for name in names_of(ModelPreset)]
    print_table(result_console(), in_order(presets))


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
    from evalsuite.config import ModelPreset, load_spec, rooted

    preset = load_spec(ModelPreset, name)
    if as_yaml:
        content = preset.model_dump(mode="json", exclude_unset=True)
        echo_yaml(rooted(content, preset.path.parent), preset.path)
    else:
        print_page(result_console(), preset)


@click.group(
    help="List, show or fetch extractors.",
    epilog="Examples:\n\n\b\n  evalsuite extractors list\n"
    "  evalsuite extractors show digits-convnet",
)
def extractors() -> None:
    """The group of three commands below."""


@extractors.command(
    "list",
    help="One line for each of the extractors.",
    epilog="Examples:\n\n\b\n  evalsuite extractors list\n  evalsuite extractors list | wc -l",
)
def _list_extractors() -> None:
    from evalsuite.config import ExtractorSpec, load_spec, names_of

    for name in names_of(ExtractorSpec):
        click.echo(f"{name:24} {load_spec(ExtractorSpec, name).title}")


@extractors.command(
    "show",
    help="Everything about one of the extractors.",
    epilog="Examples:\n\n\b\n  evalsuite extractors show digits-convnet\n"
    "  evalsuite extractors show ./mine.yaml",
)
@click.argument("name")
def _show_extractor(name: str) -> None:
    from evalsuite.config import ExtractorSpec, load_spec

    spec = load_spec(ExtractorSpec, name)
    echo_yaml(spec.model_dump(mode="json"), spec.path)


@extractors.command(
    "fetch",
    help="Bring an extractor's published weights into this machine's cache, checked.",
    epilog="Examples:\n\n\b\n  evalsuite extractors fetch inception-2015-12-05\n"
    "  evalsuite extractors fetch ./mine.yaml",
)
@click.argument("name")
def _fetch_extractor(name: str) -> None:
    from evalsuite.cli.downloading import fetched_weights
    from evalsuite.config import ExtractorSpec, load_spec

    path = fetched_weights(load_spec(ExtractorSpec, name))
    if path is None:
        raise UsageError(f"{name} has no published weights: give yours with --extractor-weights")
    click.echo(str(path))


@click.group(
    help="List or show named protocols.",
    epilog="Examples:\n\n\b\n  evalsuite protocols list\n  evalsuite protocols show adm",
)
def protocols() -> None:
    """The group of two commands below."""


@protocols.command(
    "list",
    help="One line for each of the protocols.",
    epilog="Examples:\n\n\b\n  evalsuite protocols list\n  evalsuite protocols list | grep jit",
)
def _list_protocols() -> None:
    from evalsuite.config import ProtocolSpec, load_spec, names_of

    for name in names_of(ProtocolSpec):
        protocol = load_spec(ProtocolSpec, name)
        click.echo(f"{name:16} {protocol.title}: {', '.join(protocol.metrics)}")


@protocols.command(
    "show",
    help="Everything about one of the protocols.",
    epilog="Examples:\n\n\b\n  evalsuite protocols show adm\n"
    "  evalsuite protocols show ./mine.yaml",
)
@click.argument("name")
def _show_protocol(name: str) -> None:
    from evalsuite.config import ProtocolSpec, load_spec

    protocol = load_spec(ProtocolSpec, name)
    echo_yaml(protocol.model_dump(mode="json"), protocol.path)


def result_console() -> "Console":
    """Stdout; 120 columns when it is not a terminal."""
    from rich.console import Console

    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120, highlight=False)


def echo_yaml(content: dict[str, Any], path: "Path") -> None:
    """Print YAML, and as a comment the file that it was read from."""
    import yaml

    click.echo(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100), nl=False)
    click.echo(f"# {path}")

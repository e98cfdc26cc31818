"""`evalsuite models`, `references` and `extractors`: what there is by name."""

from typing import Any

import click


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
        import yaml

        from evalsuite.config import load_spec

        spec: Any = load_spec(_kind(kind_name), name)
        click.echo(
            yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
            nl=False,
        )
        click.echo(f"file: {spec.path}")

    return group


def _kind(name: str) -> Any:  # noqa: ANN401 - one of three classes
    from evalsuite import config

    return {
        "model": config.ModelPreset,
        "reference": config.ReferenceSpec,
        "extractor": config.ExtractorSpec,
    }[name]


models = _catalogue("model", "models", "pixnerd-digits")
references = _catalogue("reference", "references", "digits-16-train")
extractors = _catalogue("extractor", "extractors", "digits-convnet")

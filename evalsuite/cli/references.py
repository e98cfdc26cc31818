"""`evalsuite references`: real data to compare with, by name; fetched, or made of any images."""

import os
from typing import Any

import click

from evalsuite.cli.options import PATH, POSITIVE, device_option
from evalsuite.errors import UsageError, nearest

_PARTS = ("images", "features", "moments")


@click.group(
    epilog="Examples:\n\n\b\n  evalsuite references list\n"
    "  evalsuite references fetch adm-imagenet-256"
)
def references() -> None:
    """List, show, fetch or build references."""


@references.command(
    "list",
    epilog="Examples:\n\n\b\n  evalsuite references list\n  evalsuite references list | grep adm",
)
def _list() -> None:
    """A table of the registered references and whether their files are on this machine."""
    from evalsuite.artifacts.references import local_path, registered_references
    from evalsuite.cli.catalogue import result_console
    from evalsuite.cli.reference_pages import print_table

    rows = [(spec, local_path(spec) is not None) for spec in registered_references()]
    print_table(result_console(), rows)


@references.command(
    "show",
    epilog="Examples:\n\n\b\n  evalsuite references show adm-imagenet-512\n"
    "  evalsuite references show ./mine.yaml --yaml",
)
@click.argument("name")
@click.option("--yaml", "as_yaml", is_flag=True, help="The file's content as YAML.")
def _show(name: str, as_yaml: bool) -> None:
    """What a reference holds, where it comes from, its traps, and what it does not compare with."""
    from evalsuite.artifacts.references import local_path
    from evalsuite.cli.catalogue import echo_yaml, result_console
    from evalsuite.cli.reference_pages import print_page
    from evalsuite.config import ReferenceSpec, load_spec

    spec = load_spec(ReferenceSpec, name)
    if as_yaml:
        content = spec.model_dump(mode="json", exclude_unset=True)
        if spec.file is not None:  # so that the YAML means the same anywhere
            content["file"] = str((spec.path.parent / spec.file).resolve())
        echo_yaml(content, spec.path)
    else:
        print_page(result_console(), spec, local_path(spec))


@references.command(
    "fetch",
    epilog="Examples:\n\n\b\n  evalsuite references fetch adm-imagenet-256\n"
    "  evalsuite references fetch jit-imagenet-256 --allow-unverified",
)
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option(
    "--allow-unverified",
    is_flag=True,
    help="Take a file whose SHA-256 nobody has published; its digest is kept from then on.",
)
def _fetch(names: tuple[str, ...], allow_unverified: bool) -> None:
    """Bring references into this machine's cache, checked; an interrupted fetch goes on."""
    from evalsuite.artifacts.digests import known_sha256
    from evalsuite.artifacts.references import open_reference
    from evalsuite.cli.downloading import fetched_reference
    from evalsuite.config import ReferenceSpec, load_spec

    specs = [load_spec(ReferenceSpec, name) for name in names]
    for name, spec in zip(names, specs, strict=True):
        path = fetched_reference(spec, allow_unverified=allow_unverified)
        open_reference(name)
        digest = known_sha256(path)
        checked = "as published" if spec.sha256 else "not checked: nobody has published it"
        click.echo(f"{spec.name}  {path}  SHA-256 {digest} ({checked})")


@references.command(
    "build",
    epilog="Examples:\n\n\b\n"
    "  evalsuite references build photos/ --name photos --extractor digits-convnet --output refs\n"
    "  evalsuite references build train/ --name mine --output refs --with images"
    " --preprocess adm-crop --size 256",
)
@click.argument("source", type=PATH, metavar="DIR|NPZ|PARQUET")
@click.option("--name", required=True, help="Of the reference and its files.")
@click.option("--output", required=True, type=PATH, help="Folder that they go to.")
@click.option(
    "--preprocess",
    type=click.Choice(["adm-crop", "torchvision-crop", "none"]),
    default="none",
    show_default=True,
    help="Rule by which images come to --size.",
)
@click.option("--size", type=POSITIVE, help="Height and width after --preprocess.")
@click.option("--convert-rgb", is_flag=True, help="Let grey and CMYK pictures become RGB.")
@click.option("--per-class", type=POSITIVE, help="Only so many of each class, at random.")
@click.option("--seed", type=click.IntRange(min=0), help="Of that choice [default: 0].")
@click.option(
    "--with",
    "parts",
    multiple=True,
    metavar="LIST",
    help="What to keep, of images,features,moments [default: images,moments].",
)
@click.option("--extractor", metavar="NAME", help="Feature extractor of features and moments.")
@click.option("--extractor-weights", metavar="PATH|hub:REPO", help="Its weights.")
@device_option
def _build(**values: Any) -> None:  # noqa: ANN401 - click passes each option
    """Make a reference of images: an NPZ in ADM's layout and a sidecar that says all about it.

    Give the NPZ to --reference. SOURCE may hold one folder for each class.
    """
    parts, resize = _parts(values["parts"]), _resize(values["preprocess"], values["size"])
    if values["seed"] is not None and values["per_class"] is None:
        raise UsageError("--seed needs --per-class: without it no choice is made")
    from evalsuite.cli.output import ProgressView
    from evalsuite.cli.resolve import extractor_of
    from evalsuite.pipeline.numerics import resolve_device
    from evalsuite.pipeline.reference_building import build_reference
    from evalsuite.pipeline.reference_request import BuildRequest

    name = values["extractor"]
    request = BuildRequest(
        source=values["source"],
        name=values["name"],
        output=values["output"],
        resize=resize,
        convert_rgb=values["convert_rgb"],
        per_class=values["per_class"],
        seed=values["seed"] or 0,
        parts=parts,
        extractor=extractor_of(name, values["extractor_weights"]) if name else None,
        device=resolve_device(values["device"]),
        processes=len(os.sched_getaffinity(0)),
    )
    with ProgressView() as view:
        built = build_reference(
            request, lambda done, total: view.update(done, total, 1, 0, loading=False)
        )
    for path in (built.npz, built.features, built.sidecar):
        if path is not None:
            click.echo(str(path))


def _parts(given: tuple[str, ...]) -> "frozenset[Any]":
    names = [name.strip() for text in given for name in text.split(",") if name.strip()]
    for name in names:
        if name not in _PARTS:
            raise UsageError(f"--with {name!r}: {nearest(name, _PARTS)}")
    if given and not names:
        raise UsageError("--with names nothing to keep")
    return frozenset(names or ("images", "moments"))


def _resize(rule: str, size: int | None) -> str | None:
    """The text of the rule, which is one of `artifacts/resizing.py`."""
    if rule == "none":
        if size is not None:
            raise UsageError("--size needs --preprocess: say by which rule images come to it")
        return None
    if size is None:
        raise UsageError(f"--preprocess {rule} needs --size")
    return f"{rule}:{size}"

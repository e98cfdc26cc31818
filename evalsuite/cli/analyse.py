"""`evalsuite classes` and `evalsuite neighbours`: where a number comes from."""

from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import click

from evalsuite.cli.options import PATH, PLACE, POSITIVE, device_option
from evalsuite.errors import DataError, StorageError, UsageError

if TYPE_CHECKING:
    from evalsuite.artifacts.images import Images
    from evalsuite.artifacts.references import Reference
    from evalsuite.artifacts.storage import Place
    from evalsuite.pipeline.analysis import ClassTable, Neighbourhood
    from evalsuite.pipeline.measure import Measure

_SHOWN = 20
"""Rows of neighbours in the table; --json has them all."""


@click.command(
    epilog="Examples:\n\n\b\n  evalsuite classes runs/pixnerd-digits-a1b2c3d4\n"
    "  evalsuite classes runs/pixnerd-xl-512-a1b2c3d4 --metric sfid --top 20 --json classes.json"
)
@click.argument("run", type=PLACE)
@click.option("--metric", default="fid", show_default=True, help="fid, sfid or fid_infinity.")
@click.option("--top", type=POSITIVE, default=10, show_default=True, help="Classes at each end.")
@click.option("--reference", metavar="NAME", help="Of the record, where there are several.")
@click.option("--protocol", metavar="NAME|ID", help="Likewise.")
@click.option("--num-samples", type=POSITIVE, help="Likewise.")
@click.option("--json", "json_path", type=PATH, help="Write every class here.")
def classes(run: "Place", metric: str, top: int, json_path: Path | None, **values: Any) -> None:  # noqa: ANN401
    """Show which classes of an evaluated RUN push a distance up, and which down.

    The influence of a class is the change of the metric per unit of extra weight on its samples.
    Contributions of all classes sum to the metric. Only runs have the labels and influence values
    that this takes; outside samples have not.
    """
    from evalsuite.artifacts.run_directory import RunDirectory
    from evalsuite.cli.output import check_json_target, write_json
    from evalsuite.pipeline.analysis import chosen_record, class_table

    check_json_target(json_path)
    directory = RunDirectory.open(run)
    record = chosen_record(
        directory, metric, values["reference"], values["protocol"], values["num_samples"]
    )
    table = class_table(directory, record)
    if json_path is not None:
        write_json(json_path, _classes_payload(table))
    _show_classes(table, top)


def _classes_payload(table: "ClassTable") -> dict[str, Any]:
    record = table.record
    return {
        "metric": record.metric,
        "value": record.value,
        "protocol_id": record.protocol_id,
        "reference": record.reference,
        "num_samples": record.protocol.num_samples,
        "classes": [
            {
                "label": share.label,
                "name": table.name_of(share.label),
                "count": share.count,
                "influence": share.influence,
                "standard_error": share.standard_error,
                "contribution": share.contribution,
            }
            for share in table.shares
        ],
    }


def _show_classes(table: "ClassTable", top: int) -> None:
    from rich.table import Table

    from evalsuite.cli.catalogue import result_console
    from evalsuite.metrics.decomposition import top_classes

    record, shares = table.record, table.shares
    highest = top_classes(shares, top)
    lowest = [s for s in top_classes(shares, top, lowest=True) if s not in highest]
    shown = Table(box=None, pad_edge=False)
    shown.add_column("class")
    for heading in ("samples", "influence", "± error", "contribution"):
        shown.add_column(heading, justify="right")
    rows = [*highest, None, *reversed(lowest)] if len(highest) + len(lowest) < len(shares) else []
    for share in rows or [*highest, *reversed(lowest)]:
        if share is None:
            shown.add_row("...")
            continue
        error = "-" if share.standard_error is None else f"{share.standard_error:.4f}"
        name = table.name_of(share.label)
        label = str(share.label) if name == str(share.label) else f"{share.label} {name}"
        numbers = (f"{share.influence:+.4f}", error, f"{share.contribution:.4f}")
        shown.add_row(label, str(share.count), *numbers)
    console = result_console()
    console.print(shown, markup=False)
    total = sum(share.contribution for share in shares)
    console.print(
        f"{record.display} {record.value:.4f} against {record.reference}; contributions of all"
        f" {len(shares)} classes sum to {total:.4f}",
        soft_wrap=True,
        markup=False,
    )
    console.print(
        f"by chance alone the most extreme of {len(shares)} classes lies about"
        f" {_extreme(len(shares)):.1f} errors from 0; an influence is a derivative, not the"
        " distance of the class",
        soft_wrap=True,
    )


def _extreme(count: int) -> float:
    """About the median of the largest deviation of `count` normal variables, in their errors."""
    return NormalDist().inv_cdf((1 + 0.5 ** (1 / count)) / 2)


def parse_indices(text: str) -> tuple[int, ...]:
    """Indices from a list such as `0,5,17`.

    Raises:
        click.BadParameter: something else, or one twice.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        raise click.BadParameter(f"{text!r} is not a list of indices such as 0,5,17")
    indices = tuple(int(word) for word in words)
    if len(set(indices)) < len(indices):
        raise click.BadParameter(f"{text!r} names an index twice")
    return indices


@click.command(
    epilog="Examples:\n\n\b\n  evalsuite neighbours runs/pixnerd-digits-a1b2c3d4 --first 100"
    " --output near.png\n"
    "  evalsuite neighbours samples.npz --reference real/ --extractor inception-2015-12-05"
    " --index 0,5,17"
)
@click.argument("samples", type=PLACE)
@click.option("--reference", metavar="NAME|PATH", help="Real images [default: the preset's].")
@click.option("--index", "indices", type=parse_indices, metavar="LIST", help="Such as 0,5,17.")
@click.option("--first", type=POSITIVE, help="The first so many samples.")
@click.option("--num-nearest", type=POSITIVE, default=3, show_default=True, help="Neighbours.")
@click.option("--extractor", metavar="NAME", help="Whose features decide what is near.")
@click.option("--extractor-weights", metavar="PATH|hub:REPO", help="Its weights.")
@click.option("--output", type=PATH, help="A .png with all of them, or a folder with one each.")
@device_option
@click.option("--json", "json_path", type=PATH, help="Write distances and indices here.")
def neighbours(samples: "Place", **values: Any) -> None:  # noqa: ANN401
    """Find the reference images that are nearest to chosen SAMPLES, and AuthPct of those samples.

    SAMPLES are a run, an NPZ, a folder of images, or Parquet. A sample is authentic when its
    nearest reference image is nearer to another reference image than to the sample; AuthPct is the
    percentage of authentic ones among the chosen. It compares only with AuthPct of as many samples
    against as many reference images.
    """
    from evalsuite.cli.output import check_json_target, write_json
    from evalsuite.pipeline.analysis import neighbourhood

    check_json_target(values["json_path"])
    indices = _indices_of(values)
    _check_output(values["output"])
    if isinstance(samples, Path) and not samples.exists():
        raise DataError(f"{samples} does not exist: give a run, an NPZ, a folder or Parquet")
    source = _Source(samples, values)
    measure = source.measure
    features_ND = source.features(indices)
    found = neighbourhood(features_ND, indices, measure, values["num_nearest"])
    reference = measure.reference
    assert reference is not None
    if values["output"] is not None:
        _write_pictures(values["output"], source.images(indices), found, reference)
    if values["json_path"] is not None:
        write_json(values["json_path"], _neighbours_payload(found, measure, samples))
    _show_neighbours(found, measure)


def _indices_of(values: dict[str, Any]) -> tuple[int, ...]:
    if (values["indices"] is None) == (values["first"] is None):
        raise UsageError("choose samples: give either --index LIST or --first N")
    return values["indices"] or tuple(range(values["first"]))


def _check_output(output: Path | None) -> None:
    if output is None:
        return
    from evalsuite.cli.output import is_writable_file

    is_picture = output.suffix.lower() == ".png"
    if is_picture and not is_writable_file(output):
        raise StorageError(
            f"--output {output} cannot be written: its folder must exist and be writable"
        )
    if not is_picture and output.exists() and not output.is_dir():
        raise UsageError(f"--output {output} is neither a .png nor a folder")


class _Source:
    """Where chosen samples' features and pixels come from: a run, or what someone else made."""

    def __init__(self, place: "Place", values: dict[str, Any]) -> None:
        from evalsuite.artifacts.run_directory import RunDirectory, is_run
        from evalsuite.artifacts.samples import local_samples, open_samples
        from evalsuite.cli.output import notice
        from evalsuite.pipeline.evaluation import check_scorable

        self.run = RunDirectory.open(place) if is_run(place) else None
        if self.run is not None:
            check_scorable(self.run)
        self.samples = None if self.run is not None else open_samples(local_samples(place, notice))
        self.measure = _measure(self, values)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the images."""
        if self.run is not None:
            return self.run.plan.size
        assert self.samples is not None
        return self.samples.size

    def features(self, indices: tuple[int, ...]) -> Any:  # noqa: ANN401 - numpy is imported late
        """Pooled features of the chosen samples."""
        from evalsuite.pipeline.analysis import features_of_run, features_of_samples

        if self.run is not None:
            return features_of_run(self.run, indices, self.measure)
        assert self.samples is not None
        return features_of_samples(self.samples, indices, self.measure)

    def images(self, indices: tuple[int, ...]) -> "Images":
        """Pixels of the chosen samples."""
        from evalsuite.pipeline.analysis import chosen_images, images_of_run

        if self.run is not None:
            return images_of_run(self.run, indices)
        assert self.samples is not None
        return chosen_images(self.samples, indices)


def _measure(source: _Source, values: dict[str, Any]) -> "Measure":
    """Extractor and reference as they were asked, or as the run's preset has them."""
    from evalsuite.cli.measuring import measures_of
    from evalsuite.config import ModelPreset, load_spec, names_of
    from evalsuite.pipeline.analysis import NEEDS_FEATURES

    model = source.run.manifest.model if source.run is not None else None
    known = model is not None and model in names_of(ModelPreset)
    defaults = load_spec(ModelPreset, str(model)).evaluation if known else None
    asked = values | {"metrics": ",".join(NEEDS_FEATURES), "protocol": None}
    measure = measures_of(asked, source.size, defaults)[0]
    if measure.reference is None:
        raise UsageError("neighbours are found in real images: give --reference")
    return measure


def _neighbours_payload(
    found: "Neighbourhood", measure: "Measure", samples: "Place"
) -> dict[str, Any]:
    assert measure.reference is not None
    rows = zip(found.indices, found.found.indices_NQ, found.found.distances_NQ, strict=True)
    names = measure.reference.images.names if measure.reference.images else None
    return {
        "samples": str(samples),
        "extractor": measure.spec.extractor_id,
        "reference": measure.reference.name,
        "num_reference": found.num_reference,
        "num_samples": len(found.indices),
        "auth_pct": found.auth_pct,
        "num_copies": found.num_copies,
        "notes": list(found.notes),
        "neighbours": [
            {
                "index": index,
                "nearest": [
                    {"index": int(where), "distance": float(distance)}
                    | ({"name": names[int(where)]} if names else {})
                    for where, distance in zip(places, distances, strict=True)
                ],
            }
            for index, places, distances in rows
        ],
    }


def _show_neighbours(found: "Neighbourhood", measure: "Measure") -> None:
    from rich.table import Table

    from evalsuite.cli.catalogue import result_console

    assert measure.reference is not None
    names = measure.reference.images.names if measure.reference.images else None
    shown = Table(box=None, pad_edge=False)
    shown.add_column("sample", justify="right")
    for place in range(found.found.indices_NQ.shape[1]):
        shown.add_column(f"reference image {place + 1}", justify="right")
    rows = zip(found.indices, found.found.indices_NQ, found.found.distances_NQ, strict=True)
    for index, places, distances in list(rows)[:_SHOWN]:
        cells = (
            f"{names[place] if names else place} ({distance:.4g})"
            for place, distance in zip(places.tolist(), distances, strict=True)
        )
        shown.add_row(str(index), *cells)
    console = result_console()
    console.print(shown, markup=False)
    lines = []
    if len(found.indices) > _SHOWN:
        lines.append(f"and {len(found.indices) - _SHOWN} samples more: --json writes them all")
    lines += _authenticity_lines(found, measure.reference.name)
    lines += found.notes
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)


def _authenticity_lines(found: "Neighbourhood", reference: str) -> list[str]:
    sizes = f"{len(found.indices)} samples against {found.num_reference} images of {reference}"
    lines = []
    if found.num_copies:
        lines.append(
            f"{found.num_copies} of the samples are at distance 0 of a reference image: copies, as"
            " far as this extractor sees"
        )
    if found.auth_pct is None:
        return [*lines, f"AuthPct is undefined for {sizes}: it needs two images"]
    return [
        *lines,
        f"AuthPct {found.auth_pct:.1f} ({sizes}): the share whose nearest image is nearer to"
        " another reference image than to the sample; it compares only with AuthPct of as many"
        " samples and images",
    ]


def _write_pictures(
    output: Path, images: "Images", found: "Neighbourhood", reference: "Reference"
) -> None:
    """One PNG with a row for each sample, or a folder with a PNG for each."""
    from evalsuite.artifacts.storage import LocalStorage
    from evalsuite.cli.output import write_file
    from evalsuite.pipeline.analysis import chosen_images
    from evalsuite.report.neighbour_grid import neighbour_grid

    assert reference.images is not None
    places = found.found.indices_NQ
    flat = chosen_images(reference.images, places.reshape(-1).tolist())
    near = flat.reshape(*places.shape, *flat.shape[1:])
    if output.suffix.lower() == ".png":
        write_file(output, neighbour_grid(images, list(near)))
        return
    storage = LocalStorage(output)
    storage.check_writable()
    for row, index in enumerate(found.indices):
        picture = neighbour_grid(images[row : row + 1], [near[row]])
        storage.replace(f"{index:08}.png", picture)

"""`evalsuite parity`: TensorFlow with ADM's graph and ours, side by side."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evalsuite.cli.options import PATH, PLACE, POSITIVE, device_option
from evalsuite.errors import DataError

if TYPE_CHECKING:
    from evalsuite.artifacts.storage import Place
    from evalsuite.pipeline.parity import Parity, ParityRow


@click.command(
    epilog="Examples:\n\n\b\n  evalsuite parity samples.npz --reference adm-imagenet-256\n"
    "  evalsuite parity samples.npz --reference ref.npz --num-samples 2000 --json parity.json"
)
@click.argument("samples", type=PLACE)
@click.option("--reference", required=True, metavar="NAME|PATH", help="Real data to compare with.")
@click.option(
    "--extractor", metavar="NAME", help="Extractor with a graph [default: inception-2015-12-05]."
)
@click.option(
    "--extractor-weights",
    metavar="PATH|hub:REPO",
    help="Its graph (.pb) instead of the fetched one.",
)
@click.option("--num-samples", type=POSITIVE, help="The first N only [default: all].")
@device_option
@click.option("--json", "json_path", type=PATH, help="Write the result here.")
def parity(samples: "Place", json_path: Path | None, **values: Any) -> None:  # noqa: ANN401
    """Evaluate SAMPLES by TensorFlow and by torch, and compare features and metrics.

    TensorFlow runs ADM's very graph in a process of its own. Exit code 3 when the two are further
    apart than two implementations in float32 may be.
    """
    from evalsuite.artifacts.references import open_reference
    from evalsuite.artifacts.samples import local_samples, open_samples
    from evalsuite.cli.output import check_json_target, notice, write_json
    from evalsuite.cli.resolve import extractor_of
    from evalsuite.pipeline.numerics import resolve_device
    from evalsuite.pipeline.parity import parity as compare
    from evalsuite.runtime.machine import default_cpu_workers

    check_json_target(json_path)
    spec = extractor_of(values["extractor"] or "inception-2015-12-05", values["extractor_weights"])
    opened, reference = (
        open_samples(local_samples(samples, notice)),
        open_reference(values["reference"]),
    )
    count = values["num_samples"] or opened.num_images
    if count > opened.num_images:
        raise DataError(f"{samples} holds {opened.num_images} images, fewer than {count}")
    device = resolve_device(values["device"])
    found = compare(opened, reference, spec, device, count, default_cpu_workers())
    if json_path is not None:
        write_json(json_path, _payload(found, count, reference.name))
    _show(found)
    if not found.agrees:
        apart = [row.metric for row in (*found.rows, *found.feature_rows) if not row.agrees]
        raise DataError(f"the backends are too far apart in {', '.join(apart)}")


def _payload(found: "Parity", count: int, reference: str) -> dict[str, Any]:
    return {
        "num_samples": count,
        "reference": reference,
        "agrees": found.agrees,
        "rows": [{**row._asdict(), "agrees": row.agrees} for row in found.rows],
        "features": {row.metric: row.torch for row in found.feature_rows},
        "versions": dict(found.versions),
    }


def _show(found: "Parity") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("metric")
    for heading in ("tensorflow", "torch", "difference", "tolerance"):
        table.add_column(heading, justify="right")
    table.add_column("result")
    for row in found.rows:
        difference = f"{row.torch - row.tensorflow:+.2e}"
        cells = (f"{row.tensorflow:.7g}", f"{row.torch:.7g}", difference, _tolerance(row))
        table.add_row(row.metric, *cells, _verdict(row))
    for row in found.feature_rows:
        cells = ("", "", f"{row.torch:.2e}", _tolerance(row))
        table.add_row(f"{row.metric} features", *cells, _verdict(row))
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120, highlight=False).print(
        table
    )


def _tolerance(row: "ParityRow") -> str:
    return "" if row.tolerance is None else f"{row.tolerance:.1e}"


def _verdict(row: "ParityRow") -> str:
    if row.tolerance is None:
        return "another arithmetic"
    return "agrees" if row.agrees else "APART"

"""`evalsuite t2i`: GenEval and DPG-Bench on images that are there, and other people's scorers."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from evalsuite.cli.options import PATH, POSITIVE, device_option
from evalsuite.errors import UsageError

if TYPE_CHECKING:
    from evalsuite.pipeline.geneval_run import GenevalInput
    from evalsuite.t2i.geneval import GenevalOptions


class _Judges(NamedTuple):
    """Who judges images, with what names them in a protocol, and how they are checked."""

    detector: Any
    protocol: dict[str, Any]
    colors: Any
    colors_protocol: dict[str, Any] | None
    options: "GenevalOptions"
    check: Callable[[], None]


@click.group(
    epilog="Examples:\n\n\b\n"
    "  evalsuite t2i summary verdicts.jsonl\n"
    "  evalsuite t2i external images --layout geneval --scorer 'command:./score.sh {images}'"
)
def t2i() -> None:
    """Score text-to-image runs, or folders in the official layouts."""


@t2i.command(
    epilog="Examples:\n\n\b\n"
    "  evalsuite t2i geneval RUN --metadata evaluation_metadata.jsonl --detector mask2former \\\n"
    "    --object-names object_names.txt --clip clip-vit-large-patch14 --output verdicts.jsonl\n"
    "  evalsuite t2i geneval images --detector mask2former --object-names object_names.txt \\\n"
    "    --clip clip-vit-large-patch14 --output verdicts.jsonl\n"
    "  evalsuite t2i geneval RUN --detector shapes --output verdicts.jsonl"
)
@click.argument("images", type=PATH)
@click.option("--metadata", type=PATH, help="GenEval's metadata, of a run's prompts.")
@click.option("--num-samples", type=POSITIVE, help="Of a run [default: all that were asked].")
@click.option(
    "--detector",
    metavar="FOLDER|shapes",
    required=True,
    help="Folder of Mask2Former, instances; or `shapes`, the coloured shapes' own, which needs"
    " neither names nor CLIP.",
)
@click.option("--object-names", type=PATH, help="The folder's class names, one a line.")
@click.option("--clip", type=PATH, help="Folder of CLIP ViT-L/14, for prompts with colours.")
@click.option("--threshold", type=click.FloatRange(0, 1), help="[default: 0.3; shapes 0.6].")
@click.option(
    "--counting-threshold", type=click.FloatRange(0, 1), help="[default: 0.9; shapes 0.6]."
)
@click.option("--output", type=PATH, required=True, help="Verdicts; an unfinished file goes on.")
@click.option("--json", "json_path", type=PATH, help="Write the result here.")
@device_option
def geneval(**values: Any) -> None:  # noqa: ANN401 - click passes each option
    """Detect, ask for colours and judge each of IMAGES: a run, or a folder in GenEval's layout.

    Every verdict is kept with its detections, so that `t2i summary` needs no network. The
    detector and the classifier are checked before a score is printed.
    """
    from evalsuite.cli.output import check_json_target, notice
    from evalsuite.pipeline.built_in_detectors import BUILT_IN, metadata_of
    from evalsuite.pipeline.geneval_run import PORTION, judge_all, open_geneval, verdict_header
    from evalsuite.pipeline.row_file import RowFile

    check_json_target(values["json_path"])
    metadata, own = values["metadata"], values["detector"] in BUILT_IN
    if own and metadata is None and (values["images"] / "manifest.json").is_file():
        metadata = metadata_of(values["detector"])
    given = open_geneval(values["images"], metadata, values["num_samples"])
    judges = _built_in(values, given) if own else _networks(values, given)
    options = judges.options.model_copy(
        update={k: values[k] for k in ("threshold", "counting_threshold") if values[k] is not None}
    )
    header = verdict_header(given, options, judges.protocol, judges.colors_protocol)
    file = RowFile(values["output"], header, portion=PORTION, total=given.num_images)
    if len(file.rows) < given.num_images:
        judges.check()
        notice(f"{given.num_images - len(file.rows)} of {given.num_images} images are to be judged")
        judge_all(given, judges.detector, judges.colors, options, file)
    _print_summary(values["output"], None, values["json_path"])


@t2i.command(
    epilog="Examples:\n\n\b\n"
    "  evalsuite t2i dpg RUN --dpg-csv dpg_bench.csv --judge blip-vqa-base --output answers.jsonl\n"
    "  evalsuite t2i dpg grids --dpg-csv dpg_bench.csv --judge blip-vqa-base --resolution 512 \\\n"
    "    --output answers.jsonl"
)
@click.argument("images", type=PATH)
@click.option("--dpg-csv", "csv", type=PATH, required=True, help="DPG-Bench's dpg_bench.csv.")
@click.option("--num-samples", type=POSITIVE, help="Of a run [default: all that were asked].")
@click.option("--resolution", type=POSITIVE, help="Side of one cell, of a folder of grids.")
@click.option("--judge", type=PATH, required=True, help="Folder of BLIP for visual questions.")
@click.option("--output", type=PATH, required=True, help="Answers; an unfinished file goes on.")
@click.option("--json", "json_path", type=PATH, help="Write the result here.")
@device_option
def dpg(**values: Any) -> None:  # noqa: ANN401 - click passes each option
    """Ask DPG-Bench's questions about IMAGES: a run, or a folder of grids.

    Every answer is kept. Scores are given as published, and corrected. They are the judge's:
    published numbers are mPLUG's.
    """
    from evalsuite.artifacts.digests import known_sha256
    from evalsuite.cli.output import check_json_target
    from evalsuite.pipeline.dpg_run import ask_all, open_dpg
    from evalsuite.pipeline.numerics import resolve_device
    from evalsuite.pipeline.row_file import RowFile
    from evalsuite.pipeline.t2i_networks import load_judge
    from evalsuite.t2i.dpg_questions import items_of, read_dpg_rows

    check_json_target(values["json_path"])
    rows = read_dpg_rows(values["csv"])
    items = items_of(rows)
    given = open_dpg(
        values["images"], values["csv"], rows, values["num_samples"], values["resolution"]
    )
    judge = load_judge(values["judge"], resolve_device(values["device"]))
    header = {
        "benchmark": "dpg",
        "source": given.source,
        "csv_sha256": known_sha256(values["csv"]),
        "num_images": given.num_images,
        "judge": judge.protocol,
    }
    file = RowFile(values["output"], header)
    ask_all(given, items, judge.network, file)
    _print_summary(values["output"], values["csv"], values["json_path"])


@t2i.command(
    epilog="Examples:\n\n\b\n  evalsuite t2i summary verdicts.jsonl\n"
    "  evalsuite t2i summary answers.jsonl --dpg-csv dpg_bench.csv --json scores.json"
)
@click.argument("rows", type=PATH)
@click.option("--dpg-csv", "csv", type=PATH, help="Of a file of DPG-Bench's answers.")
@click.option("--json", "json_path", type=PATH, help="Write the result here.")
def summary(rows: Path, csv: Path | None, json_path: Path | None) -> None:
    """Sum up a file of verdicts or answers again; no network is needed."""
    _print_summary(rows, csv, json_path)


@t2i.command(
    epilog="Examples:\n\n\b\n  evalsuite t2i compare a/verdicts.jsonl b/verdicts.jsonl\n"
    "  evalsuite t2i compare new.jsonl old.jsonl --dpg-csv dpg_bench.csv"
)
@click.argument("a", type=PATH)
@click.argument("b", type=PATH)
@click.option("--dpg-csv", "csv", type=PATH, help="Of files of DPG-Bench's answers.")
@click.option("--json", "json_path", type=PATH, help="Write the result here.")
def compare(a: Path, b: Path, csv: Path | None, json_path: Path | None) -> None:
    """The score of A less that of B, paired on the same prompts.

    Both must have been judged by the same networks and options. Of DPG-Bench it is the corrected
    score.
    """
    from evalsuite.cli.output import write_json
    from evalsuite.pipeline.dpg_run import compare_answers
    from evalsuite.pipeline.geneval_run import compare_verdicts
    from evalsuite.pipeline.row_file import benchmark_of
    from evalsuite.t2i.dpg_questions import read_dpg_rows

    if benchmark_of(a) == "dpg":
        found = compare_answers(a, b, read_dpg_rows(_csv_of(a, csv)))
    else:
        found = compare_verdicts(a, b)
    if json_path:
        write_json(json_path, found)
    for tag, one in found.get("tags", {}).items():
        click.echo(f"{tag:16} {one['difference']:+.4f}  {_interval(one)}")
    click.echo(f"{'difference':16} {found['difference']:+.4f}  {_interval(found)}")


@t2i.command(
    epilog="Examples:\n\n\b\n"
    "  evalsuite t2i external images --layout geneval --scorer 'command:./score.sh {images}'\n"
    "  evalsuite t2i external grids --layout dpg --scorer 'command:./dpg.sh {images} {output}'"
)
@click.argument("images", type=PATH)
@click.option("--layout", type=click.Choice(["geneval", "dpg"]), required=True, help="Of IMAGES.")
@click.option("--scorer", metavar="command:...", required=True, help="Program and its arguments.")
@click.option("--json", "json_path", type=PATH, help="Write the result here.")
def external(images: Path, layout: str, scorer: str, json_path: Path | None) -> None:
    """Run somebody's scorer, in its own environment, on IMAGES as `export` wrote them.

    In the command {images} stands for the folder, {output} for a JSON file of numbers that it may
    write; where it writes none, its last line of output is taken.
    """
    from evalsuite.cli.output import check_json_target, write_json
    from evalsuite.pipeline.external_scorer import parse_command, run_scorer

    check_json_target(json_path)
    words = parse_command(scorer)
    if not images.is_dir():
        raise UsageError(f"{images} is no folder: `evalsuite export` writes one")
    found = run_scorer(words, images, layout)
    if json_path:
        write_json(json_path, found)
    for name, value in found["scores"].items():
        click.echo(f"{name:20} {value:g}")


@t2i.command(
    epilog="Examples:\n\n\b\n  evalsuite t2i fetch geneval\n"
    "  evalsuite t2i fetch dpg --allow-unverified"
)
@click.argument("benchmark")
@click.option("--allow-unverified", is_flag=True, help="Take a file without a known SHA-256.")
def fetch(benchmark: str, allow_unverified: bool) -> None:
    """Bring the published files of BENCHMARK (geneval or dpg) and say where they are.

    The metadata of GenEval is what `--prompts` and `--metadata` take.
    """
    from evalsuite.cli.downloading import fetched
    from evalsuite.config import BenchmarkSpec, load_spec

    spec = load_spec(BenchmarkSpec, benchmark)
    for file in spec.files:
        if file.place is None:
            click.echo(f"{file.role:14} {spec.path.parent / str(file.file)}")
            continue
        path = fetched(file.place, allow_unverified=allow_unverified)
        click.echo(f"{file.role:14} {path}")
    click.echo(f"{spec.num_prompts} prompts, {spec.images_per_prompt} images each; {spec.licence}")


@t2i.command(
    name="convert-detector",
    epilog="Examples:\n\n\b\n"
    "  evalsuite t2i convert-detector mask2former_swin-s.pth --output mask2former-official\n"
    "  evalsuite t2i convert-detector weights.pth --output folder",
)
@click.argument("checkpoint", type=PATH)
@click.option("--output", type=PATH, required=True, help="Folder to write.")
def convert_detector(checkpoint: Path, output: Path) -> None:
    """Write mmdet's Mask2Former as a folder of transformers, so that mmdet is not needed."""
    from evalsuite.pipeline.t2i_networks import OFFICIAL
    from evalsuite.pipeline.t2i_networks import convert_detector as write

    digest = write(checkpoint, output)
    kind = "the official detector" if digest.startswith(OFFICIAL) else "no known detector"
    click.echo(f"{output}  from {checkpoint.name}, sha256 {digest}: {kind}")


def _networks(values: dict[str, Any], given: "GenevalInput") -> _Judges:
    """Mask2Former and CLIP from the folders that were given."""
    from evalsuite.pipeline.numerics import resolve_device
    from evalsuite.pipeline.t2i_networks import load_colors, load_detector, read_object_names
    from evalsuite.t2i.detections import NoColors
    from evalsuite.t2i.detector_checks import check_against_cpu
    from evalsuite.t2i.geneval import GenevalOptions

    if values["object_names"] is None:
        raise UsageError("--detector needs --object-names, the class names of its network")
    names = read_object_names(values["object_names"])
    _check_names(given.prompts, names)
    if values["clip"] is None and any(prompt.asks_color for prompt in given.prompts):
        raise UsageError("prompts ask for colours: give --clip, the folder of CLIP ViT-L/14")
    device = resolve_device(values["device"])
    found = load_detector(Path(values["detector"]), names, device)
    colors = load_colors(values["clip"], device) if values["clip"] else None
    return _Judges(
        found.network,
        found.protocol,
        colors.network if colors else NoColors("--clip was not given"),
        colors.protocol if colors else None,
        GenevalOptions(),
        lambda: check_against_cpu(found.network),
    )


def _built_in(values: dict[str, Any], given: "GenevalInput") -> _Judges:
    """A detector that comes with evalsuite; there is no network to check."""
    from evalsuite.pipeline.built_in_detectors import built_in

    for flag in ("object_names", "clip"):
        if values[flag] is not None:
            name = flag.replace("_", "-")
            raise UsageError(f"--{name} is for Mask2Former: --detector shapes brings its own")
    own = built_in(values["detector"])
    _check_names(given.prompts, own.names)
    return _Judges(
        own.detector,
        own.protocol,
        own.colors,
        own.colors_protocol,
        own.options,
        lambda: None,
    )


def _check_names(prompts: Any, names: tuple[str, ...]) -> None:  # noqa: ANN401
    """Raise UsageError when a prompt names an object that the detector does not know."""
    asked = {c.class_name for prompt in prompts for c in (*prompt.include, *prompt.exclude)}
    unknown = sorted(asked - set(names))
    if unknown:
        raise UsageError(
            f"prompts ask for {unknown[0]!r} (and {len(unknown) - 1} more), which --object-names"
            " does not have: it is another list than GenEval's"
        )


def _print_summary(rows: Path, csv: Path | None, json_path: Path | None) -> None:
    from evalsuite.cli.output import write_json
    from evalsuite.pipeline import dpg_run, geneval_run
    from evalsuite.pipeline.row_file import benchmark_of
    from evalsuite.t2i.dpg_questions import read_dpg_rows

    if benchmark_of(rows) == "dpg":
        found = dpg_run.summary_of(rows, read_dpg_rows(_csv_of(rows, csv)))
        _print_dpg(found)
    else:
        found = geneval_run.summary_of(rows)
        print_geneval(found)
    if json_path:
        write_json(json_path, found)


def _csv_of(rows: Path, csv: Path | None) -> Path:
    if csv is None:
        raise UsageError(f"{rows} holds answers of DPG-Bench: give --dpg-csv")
    return csv


def print_geneval(found: dict[str, Any]) -> None:
    """Tags with intervals, overall, and whose score it is."""
    for tag, one in found["tags"].items():
        counts = f"{one['correct']} of {one['images']}"
        click.echo(f"{tag:16} {one['score']:.4f}  {_interval(one):22} {counts}")
    click.echo(f"{'overall':16} {found['overall']:.4f}  {_interval(found['overall_estimate'])}")
    click.echo(
        f"{found['display']}: {found['total_images']} images of {found['total_prompts']} prompts;"
        " intervals are of 95 %, by prompt"
    )


def _print_dpg(found: dict[str, Any]) -> None:
    for name in ("official", "corrected"):
        one = found[name]
        click.echo(
            f"{name:10} {one['overall']:.2f}  {_interval(one)}  {one['num_prompts']} prompts"
        )
        shown = ", ".join(f"{key} {value:.2f}" for key, value in one["categories"].items())
        click.echo(f"{'':10} {shown}")
    click.echo(f"{found['display']}: of official, {found['official']['note']}")
    neither = found["answers_neither_yes_nor_no"]
    if neither:
        click.echo(f"{neither} answers are neither yes nor no, and count as no")


def _interval(one: dict[str, Any]) -> str:
    interval = one.get("interval")
    return "" if interval is None else f"({interval[0]:.4f} to {interval[1]:.4f})"

"""`evalsuite t2i`: GenEval and DPG-Bench on images that are there, and other people's scorers."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from evalsuite.cli.options import PATH, PLACE
from evalsuite.cli.t2i_judging import dpg, geneval, time_limit
from evalsuite.cli.t2i_scores import score
from evalsuite.cli.t2i_view import csv_of, difference_line, print_summary, refuse_csv
from evalsuite.errors import DataError, printable

if TYPE_CHECKING:
    from evalsuite.artifacts.storage import Place


@click.group(
    epilog="Examples:\n\n\b\n"
    "  evalsuite t2i summary verdicts.jsonl\n"
    "  evalsuite t2i external images --layout geneval --scorer 'command:./score.sh {images}'"
)
def t2i() -> None:
    """Score text-to-image runs, or folders in the official layouts."""


t2i.add_command(geneval)
t2i.add_command(dpg)
t2i.add_command(score)


@t2i.command(
    epilog="Examples:\n\n\b\n  evalsuite t2i summary verdicts.jsonl\n"
    "  evalsuite t2i summary answers.jsonl --dpg-csv dpg_bench.csv --json scores.json"
)
@click.argument("rows", type=PLACE)
@click.option("--dpg-csv", "csv", type=PATH, help="Of a file of DPG-Bench's answers.")
@click.option("--json", "json_path", type=PATH, help="Write the result here.")
def summary(rows: "Place", csv: Path | None, json_path: Path | None) -> None:
    """Sum up a file of verdicts or answers again; no network is needed."""
    print_summary(rows, csv, json_path)


@t2i.command(
    epilog="Examples:\n\n\b\n  evalsuite t2i compare a/verdicts.jsonl b/verdicts.jsonl\n"
    "  evalsuite t2i compare new.jsonl old.jsonl --dpg-csv dpg_bench.csv"
)
@click.argument("a", type=PLACE)
@click.argument("b", type=PLACE)
@click.option("--dpg-csv", "csv", type=PATH, help="Of files of DPG-Bench's answers.")
@click.option("--json", "json_path", type=PATH, help="Write the result here.")
def compare(a: "Place", b: "Place", csv: Path | None, json_path: Path | None) -> None:
    """The score of A less that of B, paired on the same prompts.

    Both must have been judged by the same networks and options. Of DPG-Bench it is the corrected
    score.
    """
    from evalsuite.cli.output import write_json
    from evalsuite.pipeline.dpg_run import compare_answers
    from evalsuite.pipeline.geneval_run import compare_verdicts
    from evalsuite.pipeline.prompt_scores import compare_scores
    from evalsuite.pipeline.row_file import benchmark_of

    benchmark, other = benchmark_of(a), benchmark_of(b)
    if benchmark != other:
        raise DataError(f"{a} is of {benchmark} and {b} of {other}: no comparison")
    refuse_csv(a, benchmark, csv)
    if benchmark == "dpg":
        found = compare_answers(a, b, csv_of(a, csv))
    elif benchmark == "scores":
        found = compare_scores(a, b)
    else:
        found = compare_verdicts(a, b)
    if json_path:
        write_json(json_path, found)
    for tag, one in found.get("tags", {}).items():
        click.echo(difference_line(printable(tag), one))
    click.echo(difference_line("difference", found))


@t2i.command(
    epilog="Examples:\n\n\b\n"
    "  evalsuite t2i external images --layout geneval --scorer 'command:./score.sh {images}'\n"
    "  evalsuite t2i external grids --layout dpg --scorer 'command:./dpg.sh {images} {output}'"
)
@click.argument("images", type=PATH)
@click.option("--layout", type=click.Choice(["geneval", "dpg"]), required=True, help="Of IMAGES.")
@click.option("--scorer", metavar="command:...", required=True, help="Program and its arguments.")
@click.option("--run", type=PLACE, help="Where the run is that IMAGES are of, if it has moved.")
@time_limit
@click.option("--json", "json_path", type=PATH, help="Write the result here.")
def external(
    images: Path,
    layout: str,
    scorer: str,
    run: "Place | None",
    time_limit: float | None,
    json_path: Path | None,
) -> None:
    """Run somebody's scorer, in its own environment, on IMAGES as `export` wrote them.

    In the command {images} stands for the folder, {output} for a JSON file of numbers that it may
    write; where it writes none, its last line of output is taken. The numbers are kept in the run
    that IMAGES were exported from, with the command and the hashes of its files and of IMAGES.
    """
    from evalsuite.cli.output import check_json_target, notice, write_json
    from evalsuite.pipeline.exported import keep_external, open_exported, run_of
    from evalsuite.pipeline.external_scorer import LONGEST_S, run_scorer
    from evalsuite.pipeline.scorer_command import parse_command

    check_json_target(json_path)
    command = parse_command(scorer, Path.cwd())
    exported = open_exported(images, layout)
    of = run_of(exported, run)
    if of is None:
        notice(
            f"the run that {images} is of is not known or not there: its numbers are only "
            + ("printed" if json_path is None else f"printed and in {json_path}")
        )
    found = run_scorer(command, exported, layout, time_limit or LONGEST_S)
    if json_path:
        write_json(json_path, found)
    for name, value in found["scores"].items():
        click.echo(f"{printable(name):20} {value:g}")
    if of is not None:
        click.echo(f"kept in {of.root / keep_external(of, found)}")


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
    from evalsuite.cli.downloading import benchmark_path
    from evalsuite.config import BenchmarkSpec, load_spec

    spec = load_spec(BenchmarkSpec, benchmark)
    for file in spec.files:
        path = benchmark_path(spec, file, allow_unverified=allow_unverified)
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

"""`evalsuite t2i score`: any score of images against their prompts."""

from pathlib import Path
from typing import Any

import click

from evalsuite.cli.options import PATH, PLACE, POSITIVE
from evalsuite.cli.t2i_judging import judged, time_limit, worker_options
from evalsuite.cli.t2i_view import print_summary


@click.command(
    epilog="Examples:\n\n\b\n"
    "  evalsuite t2i score RUN --scorer clip:clip-vit-base-patch32\n"
    "  evalsuite t2i score RUN --scorer 'command:./blip_vqa.sh {images} {output}' \\\n"
    "    --category-file color_val.txt --category-file shape_val.txt\n"
    "  evalsuite t2i score RUN --scorer python:my_scores:Aesthetic --trust-remote-code"
)
@click.argument("run", type=PLACE)
@click.option(
    "--scorer",
    required=True,
    metavar="KIND:...",
    help="clip:FOLDER (CLIPScore), python:module:Class, or command:PROGRAM {images} {output}.",
)
@click.option(
    "--category-file",
    "files",
    type=PATH,
    multiple=True,
    help="Prompts of one category, whose name is the file's, as T2I-CompBench has them.",
)
@click.option(
    "--scorer-version",
    metavar="TEXT",
    help="Of a command that names no file of its own, such as a container: another version is"
    " another scorer.",
)
@time_limit
@click.option("--num-samples", type=POSITIVE, help="[default: all that were asked].")
@click.option("--trust-remote-code", is_flag=True, help="Allow the code of python: to run.")
@click.option("--output", type=PLACE, help="A file for the scores; the run keeps them in any case.")
@click.option("--json", "json_path", type=PATH, help="Write the result here.")
@worker_options
def score(files: tuple[Path, ...], **values: Any) -> None:  # noqa: ANN401 - click passes each option
    """Score the images of RUN, a run of prompts, one number for each; means are by prompt.

    A class is made once with the device, as `Class("cuda:0")`; its `score(images, prompts)` gets
    uint8 arrays [H,W,3] and gives a number for each. A command gets a folder of PNGs with
    prompts.jsonl and gives a JSON object with the number of each file; when it, or a file among its
    arguments, has changed, images are scored anew.
    """
    from evalsuite.artifacts.run_directory import RunDirectory
    from evalsuite.cli.output import check_json_target, check_rows_target
    from evalsuite.pipeline.external_scorer import LONGEST_S
    from evalsuite.pipeline.judged_images import images_of_run
    from evalsuite.pipeline.prompt_scores import (
        CommandOptions,
        PromptScorer,
        categories_of,
        score_source,
    )

    check_json_target(values["json_path"])
    check_rows_target(values["output"])
    version, limit_s, options = values["scorer_version"], values["time_limit"], None
    if version is not None or limit_s is not None:
        options = CommandOptions(version, limit_s or LONGEST_S)
    trusted = values["trust_remote_code"]
    source = score_source(values["scorer"], Path.cwd(), options, trust_code=trusted)
    run = RunDirectory.open(values["run"])
    images = images_of_run(run, values["num_samples"], "a score of prompts")
    prompts = run.manifest.prompts or ()
    scorer = PromptScorer(prompts, categories_of(prompts, files), source)
    print_summary(judged(images, scorer, values), None, values["json_path"])

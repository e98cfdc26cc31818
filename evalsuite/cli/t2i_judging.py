"""`evalsuite t2i geneval` and `t2i dpg`, and how `run` scores a benchmark's images."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from evalsuite.cli.options import (
    PATH,
    PLACE,
    POSITIVE,
    NumberRange,
    device_option,
    gpus_per_worker_option,
)
from evalsuite.cli.t2i_view import print_summary
from evalsuite.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evalsuite.artifacts.run_directory import RunDirectory
    from evalsuite.artifacts.storage import Place
    from evalsuite.config import BenchmarkSpec
    from evalsuite.pipeline.geneval_scorer import DetectorSource
    from evalsuite.pipeline.judged_images import JudgedImages
    from evalsuite.pipeline.judging import Scorer
    from evalsuite.pipeline.t2i_judges import JudgeSource
    from evalsuite.t2i.geneval import GenevalOptions
    from evalsuite.t2i.geneval_prompts import GenevalPrompt

SHAPES = "shapes"
"""The detector that comes with evalsuite."""
_DETECTOR_OPTIONS = [
    click.option(
        "--detector",
        metavar="FOLDER|shapes",
        help="GenEval's: a folder of Mask2Former, instances; or `shapes`, the coloured shapes' own,"
        " which needs neither names nor CLIP.",
    ),
    click.option("--object-names", type=PATH, help="The detector's class names, one a line."),
    click.option("--clip", type=PATH, help="Folder of CLIP ViT-L/14, for prompts with colours."),
    click.option(
        "--known-picture",
        metavar="FILE=CLASS,...|none",
        help="A photograph, and what the detector must find best in it before it judges [default:"
        " one of a cat]. With `none` the score says that it was not tested.",
    ),
]
_JUDGE = "Folder of BLIP for visual questions, or of Qwen-VL."
_WORKER_OPTIONS = [
    click.option("--num-workers", type=POSITIVE, help="[default: all, if it is long]."),
    click.option("--address", metavar="ADDR", help="Ray: local, auto or host:port."),
    gpus_per_worker_option,
    device_option,
]
_OUTPUT = click.option(
    "--output", type=PLACE, help="A file for what is found; a run keeps it in any case."
)
time_limit = click.option(
    "--time-limit",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="That one call of a command may take [default: a day].",
)
"""Of commands that run somebody's program."""
_PAGE = click.option(
    "--page",
    type=PATH,
    metavar="FOLDER",
    help="Write report/index.html there: images with what was found in them, and why.",
)
_JSON = click.option("--json", "json_path", type=PATH, help="Write the result here.")


def worker_options(function: Any) -> Any:  # noqa: ANN401 - click's decorators
    """How many workers, and where."""
    for option in reversed(_WORKER_OPTIONS):
        function = option(function)
    return function


def detector_options(function: Any) -> Any:  # noqa: ANN401 - click's decorators
    """Which detector and colours."""
    for option in reversed(_DETECTOR_OPTIONS):
        function = option(function)
    return function


def network_options(function: Any) -> Any:  # noqa: ANN401 - click's decorators
    """What `run` takes to score a benchmark."""
    judge = click.option("--judge", type=PATH, help=f"DPG-Bench's: {_JUDGE[0].lower()}{_JUDGE[1:]}")
    return detector_options(judge(function))


class _Detection(NamedTuple):
    """A detector and its thresholds."""

    source: "DetectorSource"
    options: "GenevalOptions"


@click.command(
    epilog="Examples:\n\n\b\n"
    "  evalsuite t2i geneval RUN --metadata evaluation_metadata.jsonl --detector mask2former \\\n"
    "    --object-names object_names.txt --clip clip-vit-large-patch14\n"
    "  evalsuite t2i geneval images --detector mask2former --object-names object_names.txt \\\n"
    "    --clip clip-vit-large-patch14 --known-picture cats.jpg=cat,cat --output verdicts.jsonl\n"
    "  evalsuite t2i geneval s3://bucket/run --detector shapes --address auto"
)
@click.argument("images", type=PLACE)
@click.option(
    "--metadata",
    type=PATH,
    help="What IMAGES must be of, no prompt more or less [default: GenEval's, as fetched].",
)
@click.option("--num-samples", type=POSITIVE, help="Of a run [default: all that were asked].")
@detector_options
@click.option("--threshold", type=NumberRange(0, 1), help="[default: 0.3; shapes 0.6].")
@click.option("--counting-threshold", type=NumberRange(0, 1), help="[default: 0.9; shapes 0.6].")
@_OUTPUT
@_PAGE
@_JSON
@worker_options
def geneval(**values: Any) -> None:  # noqa: ANN401 - click passes each option
    """Detect, ask for colours and judge each of IMAGES: a run, or a folder in GenEval's layout.

    Every verdict is kept with its detections, so that `t2i summary` needs no network. What was
    judged stays when this is stopped. The detector and the classifier are tested before a score is
    printed.
    """
    from evalsuite.cli.output import check_json_target, check_rows_target
    from evalsuite.config import BenchmarkSpec, load_spec
    from evalsuite.pipeline.geneval_run import open_geneval

    check_json_target(values["json_path"])
    check_rows_target(values["output"])
    if values["detector"] is None:
        raise UsageError("give --detector, a folder of Mask2Former, or shapes")
    given = open_geneval(values["images"], _metadata(values), values["num_samples"])
    found = _detection(values, given.prompts, load_spec(BenchmarkSpec, "geneval"))
    rows = judged(given.images, given.scorer(found.source, found.options), values)
    print_summary(rows, None, values["json_path"])
    _write_page(given.images, rows, values["page"])


@click.command(
    epilog="Examples:\n\n\b\n"
    "  evalsuite t2i dpg RUN --dpg-csv dpg_bench.csv --judge qwen2.5-vl-7b-instruct\n"
    "  evalsuite t2i dpg grids --dpg-csv dpg_bench.csv --judge blip-vqa-base --resolution 512 \\\n"
    "    --output answers.jsonl"
)
@click.argument("images", type=PLACE)
@click.option("--dpg-csv", "csv", type=PATH, required=True, help="DPG-Bench's dpg_bench.csv.")
@click.option("--num-samples", type=POSITIVE, help="Of a run [default: all that were asked].")
@click.option("--resolution", type=POSITIVE, help="Side of one cell, of a folder of grids.")
@click.option("--judge", type=PATH, required=True, help=_JUDGE)
@_OUTPUT
@_PAGE
@_JSON
@worker_options
def dpg(**values: Any) -> None:  # noqa: ANN401 - click passes each option
    """Ask DPG-Bench's questions about IMAGES: a run, or a folder of grids.

    Every answer is kept, and what was asked stays when this is stopped. Scores are given as
    published, and corrected. They are the judge's: published numbers are mPLUG's.
    """
    from evalsuite.cli.output import check_json_target, check_rows_target, notice
    from evalsuite.pipeline.dpg_protocol import questions_notice
    from evalsuite.pipeline.dpg_run import open_dpg
    from evalsuite.pipeline.t2i_judges import JudgeSource
    from evalsuite.t2i.dpg_questions import read_dpg_rows

    check_json_target(values["json_path"])
    check_rows_target(values["output"])
    csv, rows = values["csv"], read_dpg_rows(values["csv"])
    given = open_dpg(values["images"], csv, rows, values["num_samples"], values["resolution"])
    told = questions_notice(csv)
    if told:
        notice(told)
    scorer = given.scorer(rows, csv, JudgeSource(values["judge"].absolute()))
    answers = judged(given.images, scorer, values)
    print_summary(answers, csv, values["json_path"])
    _write_page(given.images, answers, values["page"])


def _write_page(images: "JudgedImages", rows: "Place", folder: Path | None) -> None:
    from evalsuite.report.verdict_page import write_verdict_page

    if folder is not None:
        click.echo(f"page {write_verdict_page(images, rows, folder)}")


def judged(images: "JudgedImages", scorer: "Scorer", values: dict[str, Any]) -> "Place":
    """Have all images judged; gives the file of rows."""
    from evalsuite.cli.output import ProgressView, notice
    from evalsuite.runtime.cluster import JOB_ADDRESS
    from evalsuite.runtime.judging import Judging, judge_into
    from evalsuite.runtime.workforce import Workforce

    address = values["address"] or os.environ.get(JOB_ADDRESS)
    share = values["gpus_per_worker"] or 1.0
    workforce = Workforce(values["num_workers"], address, values["device"], share)
    with ProgressView() as view:
        return judge_into(
            Judging(workforce, view.show, notice), images, scorer, values.get("output")
        )


def _metadata(values: dict[str, Any]) -> Path:
    """What prompts ask for: as given, else the whole benchmark's.

    Raises:
        UsageError: it was neither given nor fetched.
    """
    from evalsuite.pipeline.benchmark_files import metadata_of

    if values["metadata"] is not None:
        return Path(values["metadata"])
    name = SHAPES if values["detector"] == SHAPES else "geneval"
    try:
        return metadata_of(name)
    except UsageError as error:
        raise UsageError(
            f"what do the prompts of {values['images']} ask for? Give --metadata, GenEval's"
            " evaluation_metadata.jsonl, or have `evalsuite t2i fetch geneval` bring it"
        ) from error


def _detection(
    values: dict[str, Any], prompts: "Sequence[GenevalPrompt]", spec: "BenchmarkSpec"
) -> _Detection:
    """The detector that was asked for, which knows all that `prompts` of `spec` ask for."""
    from evalsuite.pipeline.geneval_scorer import FolderSource, ShapesSource
    from evalsuite.pipeline.known_pictures import known_picture
    from evalsuite.pipeline.t2i_networks import read_object_names
    from evalsuite.t2i import shapes
    from evalsuite.t2i.colors import COLORS
    from evalsuite.t2i.geneval import GenevalOptions
    from evalsuite.t2i.geneval_prompts import check_words
    from evalsuite.t2i.mask2former import Mask2FormerDetector

    if values["detector"] == SHAPES:
        for flag in ("object_names", "clip", "known_picture"):
            if values[flag] is not None:
                name = flag.replace("_", "-")
                raise UsageError(f"--{name} is for Mask2Former: --detector shapes brings its own")
        check_words(prompts, shapes.SHAPES, tuple(shapes.PALETTE), shapes.OPTIONS.max_objects)
        return _Detection(ShapesSource(), _thresholds(values, shapes.OPTIONS, 0.0))
    if values["object_names"] is None:
        raise UsageError("--detector needs --object-names, the class names of its network")
    names, clip = read_object_names(values["object_names"]), values["clip"]
    check_words(prompts, names, COLORS, GenevalOptions().max_objects)
    options = _thresholds(values, GenevalOptions(), Mask2FormerDetector.min_score)
    if clip is None and any(prompt.asks_color for prompt in prompts):
        raise UsageError("prompts ask for colours: give --clip, the folder of CLIP ViT-L/14")
    known = known_picture(values["known_picture"], spec, names, options.threshold)
    folder = Path(values["detector"]).absolute()
    source = FolderSource(folder, names, clip.absolute() if clip else None, known)
    return _Detection(source, options)


def _thresholds(values: dict[str, Any], usual: "GenevalOptions", least: float) -> "GenevalOptions":
    """`usual` with what was given instead.

    Raises:
        UsageError: a threshold below the `least` score that the detector gives.
    """
    given = {key: values.get(key) for key in ("threshold", "counting_threshold")}
    changed = {key: value for key, value in given.items() if value is not None}
    for key, value in changed.items():
        if value < least:
            raise UsageError(
                f"--{key.replace('_', '-')} {value:g}: the detector leaves out what scores less"
                f" than {least:g}, so this would be {least:g}"
            )
    return usual.model_copy(update=changed)


class BenchmarkScoring(NamedTuple):
    """How `run` scores a benchmark once its images are there; made before any image is."""

    spec: "BenchmarkSpec"
    detection: _Detection | None
    judge: "JudgeSource | None"

    def score(
        self, run: "RunDirectory", num_samples: int, values: dict[str, Any]
    ) -> dict[str, Any]:
        """Judge, print the scores and give them."""
        from evalsuite.pipeline.benchmark_files import benchmark_file
        from evalsuite.pipeline.dpg_run import open_dpg
        from evalsuite.pipeline.geneval_run import geneval_of_run
        from evalsuite.t2i.dpg_questions import read_dpg_rows

        asked, csv = {**values, "output": None}, None
        if self.detection is not None:
            metadata = benchmark_file(self.spec, "metadata")
            found = geneval_of_run(run, metadata, num_samples)
            scorer = found.scorer(self.detection.source, self.detection.options)
            rows = judged(found.images, scorer, asked)
        else:
            assert self.judge is not None
            csv = benchmark_file(self.spec, "dpg-csv")
            questions = read_dpg_rows(csv)
            given = open_dpg(run.root, csv, questions, num_samples, None)
            rows = judged(given.images, given.scorer(questions, csv, self.judge), asked)
        summary = print_summary(rows, csv, None)
        click.echo(f"verdicts {rows}")
        return summary


def benchmark_scoring(
    spec: "BenchmarkSpec | None", values: dict[str, Any]
) -> BenchmarkScoring | None:
    """What `run` was given to score a benchmark with; None where it only makes the images.

    Raises:
        UsageError: networks of another benchmark, or of none.
        DataError: folders that hold other networks.
    """
    from evalsuite.pipeline.benchmark_files import benchmark_file
    from evalsuite.pipeline.t2i_judges import JudgeSource
    from evalsuite.t2i.geneval_prompts import read_geneval_prompts

    roles = {file.role for file in spec.files} if spec is not None else set()
    for flag, role in (("detector", "metadata"), ("judge", "dpg-csv")):
        if values[flag] is not None and role not in roles:
            raise UsageError(f"--{flag} scores a benchmark that asks for it: give --benchmark")
    if values["detector"] is None and spec is not None and spec.detector is not None:
        values = {**values, "detector": spec.detector}
    if values["detector"] is None:
        for flag in ("object_names", "clip", "known_picture"):
            if values[flag] is not None:
                raise UsageError(f"--{flag.replace('_', '-')} needs --detector")
    if spec is None or (values["detector"] is None and values["judge"] is None):
        return None
    if values["judge"] is not None:
        benchmark_file(spec, "dpg-csv")
        return BenchmarkScoring(spec, None, JudgeSource(values["judge"].absolute()))
    if values["object_names"] is None and values["detector"] != SHAPES:
        values = {**values, "object_names": benchmark_file(spec, "object-names")}
    prompts = read_geneval_prompts(benchmark_file(spec, "metadata"))
    return BenchmarkScoring(spec, _detection(values, prompts, spec), None)

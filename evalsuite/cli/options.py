"""Options that several commands share; they import nothing heavy. Defaults are the preset's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def parse_size(text: str) -> tuple[int, int]:
    """(H, W) of `256x256`, or of `256` for a square."""
    height, cross, width = text.partition("x")
    if height.isdecimal() and (width.isdecimal() or not cross) and int(height) > 0:
        return int(height), int(width) if cross else int(height)
    raise click.BadParameter(f"{text!r} is not a size such as 256x256")


def parse_part(text: str) -> tuple[int, int]:
    """(I, N) of `I/N` with 1 <= I <= N."""
    part, _, parts = text.partition("/")
    if part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts):
        return int(part), int(parts)
    raise click.BadParameter(f"{text!r} is not I/N with 1 <= I <= N, such as 2/3")


def parse_tag(text: str) -> tuple[str, str]:
    """(KEY, VALUE) of `KEY=VALUE`."""
    key, equals, value = text.partition("=")
    if key and equals:
        return key, value
    raise click.BadParameter(f"{text!r} is not KEY=VALUE")


class LocalPath(click.Path):
    """A path; `s3://bucket` is refused, which `pathlib` would take for the folder `s3:`."""

    def convert(
        self,
        value: Any,  # noqa: ANN401 - click's signature
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:  # noqa: ANN401
        """The path, when it is one of a file system."""
        if "://" in str(value):
            self.fail(f"{value!r}: this version works on mounted file systems only", param, ctx)
        return super().convert(value, param, ctx)


POSITIVE = click.IntRange(min=1)
PATH = LocalPath(path_type=Path)

_PLAN_OPTIONS = [
    click.option("--model", required=True, metavar="NAME|PRESET.yaml", help="Model preset."),
    click.option("--weights", type=PATH, help="Weights file instead of the preset's."),
    click.option(
        "--replicate", type=click.IntRange(0, 428), help="Seeds from R * 10^7 [default: 0]."
    ),
    click.option("--first-seed", type=click.IntRange(0, 2**32 - 1), help="Seed of sample 0."),
    click.option(
        "--labels",
        metavar="RULE",
        help="modulo, blocked:PER_CLASS, random:SEED or file:PATH [default: modulo].",
    ),
    click.option("--classes", metavar="LIST", help="Only these classes, by number or name."),
    click.option("--size", type=parse_size, metavar="HxW", help="Image size."),
    click.option("--batch-size", type=POSITIVE, help="Samples of one batch; part of the plan."),
    click.option("--guidance-scale", "--cfg", type=click.FloatRange(min=0), help="1 is off."),
    click.option(
        "--guidance-interval", type=float, nargs=2, metavar="LO HI", help="Times of guidance."
    ),
    click.option("--timeshift", type=float, help="Time shift; 1 is none."),
    click.option("--num-steps", "--steps", type=POSITIVE, help="Solver intervals."),
    click.option("--solver", metavar="NAME", help="euler, heun, heun_reuse or adams."),
    click.option("--order", type=click.IntRange(1, 4), help="Order of adams."),
    click.option("--last-step", type=float, help="Length of the last interval."),
    click.option("--noise-scale", type=float, help="Factor on the initial noise."),
    click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), help="Of matrix products."),
    click.option("--negative-prompt", help="For text models."),
]
PLAN_FIELDS = (
    "weights",
    "replicate",
    "first_seed",
    "labels",
    "classes",
    "size",
    "batch_size",
    "negative_prompt",
)
SAMPLING_FIELDS = (
    "guidance_scale",
    "guidance_interval",
    "timeshift",
    "num_steps",
    "solver",
    "order",
    "last_step",
    "noise_scale",
    "dtype",
)
_MEASURE_OPTIONS = [
    click.option("--reference", metavar="NAME|PATH", help="Real data to compare with."),
    click.option("--extractor", metavar="NAME", help="Feature extractor."),
    click.option("--extractor-weights", type=PATH, help="Its weights instead of its own."),
    click.option("--metrics", metavar="LIST", help="Of fid,sfid,inception_score,precision,recall."),
    click.option("--json", "json_path", type=PATH, help="Write the result here."),
]
_DEVICE = click.option(
    "--device",
    type=click.Choice(["auto", "cuda", "cpu"]),
    default="auto",
    show_default=True,
    help="Where to compute.",
)


def plan_options(function: F) -> F:
    """Options that decide pixels."""
    return _apply(_PLAN_OPTIONS, function)


def measure_options(function: F) -> F:
    """Options that decide what is measured."""
    return _apply(_MEASURE_OPTIONS, function)


def device_option(function: F) -> F:
    """`--device`."""
    return _apply([_DEVICE], function)


def _apply(options: list[Callable[[Any], Any]], function: F) -> F:
    decorated: Any = function
    for option in reversed(options):
        decorated = option(decorated)
    result: F = decorated
    return result


def given(values: dict[str, Any]) -> dict[str, Any]:
    """Options that were given, in a form that JSON can hold, under their flags' names."""

    def plain(value: object) -> object:
        if isinstance(value, Path):
            return str(value)
        return list(value) if isinstance(value, tuple) else value

    return {k: plain(v) for k, v in values.items() if v is not None and v != () and v is not False}

"""Options that several commands share; they import nothing heavy. Defaults are the preset's."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from evalsuite.artifacts.storage.places import Place, place_of
from evalsuite.errors import UsageError

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
    hint = ": a job array must count from 1, --array=1-N" if part == "0" else ""
    raise click.BadParameter(f"{text!r} is not I/N with 1 <= I <= N, such as 2/3{hint}")


def parse_tag(text: str) -> tuple[str, str]:
    """(KEY, VALUE) of `KEY=VALUE`."""
    key, equals, value = text.partition("=")
    if key and equals:
        return key, value
    raise click.BadParameter(f"{text!r} is not KEY=VALUE")


def parse_setting(text: str) -> tuple[str, Any]:
    """(KEY, VALUE) of `KEY=VALUE`, the value as YAML reads it: 3, 0.5, true, [0.1, 0.9], word."""
    import yaml

    key, equals, value = text.partition("=")
    if not key or not equals:
        raise click.BadParameter(f"{text!r} is not KEY=VALUE")
    try:
        parsed = float(value) if _is_number(value) and not value.isdecimal() else None
        return key, yaml.safe_load(value) if parsed is None else parsed
    except yaml.YAMLError as error:
        raise click.BadParameter(f"{text!r}: the value is not valid YAML") from error


def _is_number(text: str) -> bool:
    """Whether `float` takes it; YAML alone reads 1e-4 as text."""
    try:
        float(text)
    except ValueError:
        return False
    return text.strip().lstrip("+-")[:1] in "0123456789."


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
            self.fail(f"{value!r}: give a local path", param, ctx)
        return super().convert(value, param, ctx)


class PlaceOption(click.ParamType):  # type: ignore[type-arg]
    """A local path, or the URL of an object store: `s3://bucket/folder`, `gs://bucket/folder`."""

    name = "place"

    def get_metavar(self, *args: object, **named: object) -> str:  # noqa: ARG002 - it varies
        """What `--help` shows."""
        return "PATH|URL"

    def convert(
        self,
        value: Any,  # noqa: ANN401 - click's signature
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Place:
        """The place."""
        try:
            return place_of(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


POSITIVE = click.IntRange(min=1)


class _Finite:
    """Before a type of numbers of click's: refuses NaN and infinity, which it would let pass."""

    def convert(
        self,
        value: Any,  # noqa: ANN401 - as click calls it
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> float:
        """A finite number."""
        number: float = super().convert(value, param, ctx)  # type: ignore[misc]
        if not math.isfinite(number):
            raise click.BadParameter(f"{value!r} is not a finite number.", ctx, param)
        return number


class Number(_Finite, click.types.FloatParamType):
    """Any finite number."""


class NumberRange(_Finite, click.FloatRange):
    """A finite number within bounds."""


class WorkerCount(click.ParamType[int | None]):
    """A number of workers, or `auto` (None): as many as the cluster holds at each moment."""

    name = "N|auto"

    def convert(
        self,
        value: Any,  # noqa: ANN401 - as click calls it
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> int | None:
        """A number above 0, or None."""
        if value == "auto":
            return None
        number: int = POSITIVE.convert(value, param, ctx)
        return number


PATH = LocalPath(path_type=Path)
PLACE = PlaceOption()

_PLAN_OPTIONS = [
    click.option(
        "--model",
        required=True,
        metavar="NAME|PRESET.yaml",
        help="Model preset, or diffusers:PATH_OR_REPO, or python:package.module:Class.",
    ),
    click.option(
        "--weights",
        metavar="WEIGHTS",
        help="File or folder, hub:OWNER/NAME[@REVISION]:FILE, or random:SEED.",
    ),
    click.option("--ema", metavar="NAME", help="auto, raw, or a name that `inspect` shows."),
    click.option(
        "--replicate", type=click.IntRange(0, 428), help="Seeds from R * 10^7 [default: 0]."
    ),
    click.option("--first-seed", type=click.IntRange(0, 2**32 - 1), help="Seed of sample 0."),
    click.option(
        "--labels",
        metavar="RULE",
        help="modulo, blocked:PER_CLASS, random:SEED or file:PATH [default: modulo].",
    ),
    click.option(
        "--classes", metavar="LIST", help="Only these: numbers, ranges such as 0-4, or names."
    ),
    click.option("--size", type=parse_size, metavar="HxW", help="Image size."),
    click.option("--batch-size", type=POSITIVE, help="Samples of one batch; part of the plan."),
    click.option("--guidance-scale", "--cfg", type=NumberRange(min=0), help="1 is off."),
    click.option(
        "--guidance-interval", type=Number(), nargs=2, metavar="LO HI", help="Times of guidance."
    ),
    click.option("--timeshift", type=Number(), help="Time shift; 1 is none."),
    click.option("--num-steps", "--steps", type=POSITIVE, help="Solver intervals."),
    click.option(
        "--solver",
        metavar="NAME",
        help="euler, heun, heun_reuse, adams, adams2_constant or dpmpp_2m.",
    ),
    click.option("--order", type=click.IntRange(1, 4), help="Order of adams."),
    click.option("--last-step", type=Number(), help="Length of the last interval."),
    click.option("--noise-scale", type=Number(), help="Factor on the initial noise."),
    click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), help="Of matrix products."),
    click.option(
        "--set",
        "settings",
        type=parse_setting,
        metavar="KEY=VALUE",
        multiple=True,
        help="Any other setting of the sampler, such as skip_unguided=false.",
    ),
    click.option("--prompts", type=PATH, help="Prompts of a text model: .txt, .jsonl or .csv."),
    click.option("--prompt", multiple=True, metavar="TEXT", help="A prompt; may be repeated."),
    click.option("--negative-prompt", metavar="TEXT", help="For text models."),
    click.option("--text-encoder", type=PATH, help="Folder of the text encoder."),
    click.option("--cut-prompts", is_flag=True, help="Cut prompts that are too long."),
    click.option(
        "--shared-seeds",
        is_flag=True,
        help="Image k of every prompt from the same noise, as original programs do.",
    ),
    click.option("--guide-weights", metavar="WEIGHTS", help="Autoguidance: a weaker model's."),
    click.option("--guide-model", metavar="NAME|PRESET.yaml", help="Its preset [default: same]."),
    click.option("--guide-ema", metavar="NAME", help="Which of its weights."),
    click.option(
        "--guide-condition",
        type=click.Choice(["same", "null"]),
        help="What it is conditioned on [default: same].",
    ),
    click.option("--trust-remote-code", is_flag=True, help="Run the code that --model names."),
    click.option("--offline", is_flag=True, help="Look nothing up: use what `fetch` brought."),
    click.option("--lock", type=PATH, help="Lock file of `fetch`: pins revisions and hashes."),
]
PLAN_FIELDS = ("replicate", "first_seed", "labels", "classes", "size", "batch_size")
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
    click.option("--extractor-weights", metavar="PATH|hub:REPO", help="Its weights."),
    click.option(
        "--protocol",
        metavar="LIST",
        help="Named protocols: adm, adm-float32, jit, edm2, ... [default: the preset's].",
    ),
    click.option("--metrics", metavar="LIST", help="Such as fid,kid [default: the protocol's]."),
    click.option("--json", "json_path", type=PATH, help="Write the result here."),
]
_DEVICE = click.option(
    "--device",
    type=click.Choice(["auto", "cuda", "cpu"]),
    default="auto",
    show_default=True,
    help="Where to compute.",
)


gpus_per_worker_option = click.option(
    "--gpus-per-worker",
    type=NumberRange(min=0, max=1, min_open=True),
    metavar="SHARE",
    help="Below 1, several workers share one GPU [default: 1].",
)
"""Of commands with workers that compute."""


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


_TYPED = "evalsuite.typed"
"""Key of what was typed in a click context."""


class RememberedCommand(click.Command):
    """A command that remembers the words of its options, for `given`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does; its parser alone knows words, values are made of them later."""
        ctx.meta[_TYPED] = self.make_parser(ctx).parse_args(args=list(args))[0]
        return super().parse_args(ctx, args)


def given(values: dict[str, Any]) -> dict[str, list[list[str]]]:
    """Options that were typed, by their flags: for each time, the words behind it.

    Args:
        values: of the running `RememberedCommand`; those that are None or absent are left out.
    """
    context = click.get_current_context()
    typed = context.meta[_TYPED]
    found: dict[str, list[list[str]]] = {}
    for param in context.command.params:
        name = param.name or ""
        if isinstance(param, click.Option) and name in typed and values.get(name) is not None:
            found[param.opts[0].removeprefix("--")] = _words(param, typed[name])
    return found


def _words(option: click.Option, typed: Any) -> list[list[str]]:  # noqa: ANN401 - as click has it
    if option.is_flag:
        return [[]]
    times = typed if option.multiple else [typed]
    return [list(words) if option.nargs > 1 else [words] for words in times]

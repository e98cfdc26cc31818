"""Every command explains itself, with two examples, and the help needs nothing heavy."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from harness import Outcome, environment

from evalsuite.cli.main import COMMANDS, cli

GROUPS = ("models", "references", "extractors")
COMMAND_LINES = [[name] for name in COMMANDS] + [[g, c] for g in GROUPS for c in ("list", "show")]
COMMAND_LINES += [["references", "fetch"], ["references", "build"]]
COMMAND_LINES += [["leaderboard", c] for c in ("build", "check")]
COMMAND_LINES += [["jobs", c] for c in ("list", "status", "logs", "stop")]
SHARED = [
    *("--weights", "--replicate", "--first-seed", "--guidance-scale", "--guidance-interval"),
    *("--timeshift", "--num-steps", "--solver", "--batch-size", "--labels", "--classes", "--size"),
    *("--dtype", "--device", "--order", "--last-step", "--noise-scale", "--negative-prompt"),
]
GENERATING = [
    *("--num-samples", "--shard-size", "--num-workers", "--address", "--part", "--output"),
    *("--images", "--shard-format", "--json", "--dry-run", "--tag", "--yes"),
    *("--extractor", "--extractor-weights"),
]
CONTRACT = {
    "run": ["--model", *SHARED, *GENERATING, "--reference", "--metrics"],
    "generate": ["--model", *SHARED, *GENERATING],
    "evaluate": ["--reference", "--extractor", "--extractor-weights", "--metrics", "--json"],
    "sample": ["--model", "--index", "--output", *SHARED],
    "verify": ["--num-batches"],
    "export": ["--format", "--output"],
    "leaderboard build": ["--published", "--output", "--format", "--figures"],
    "verify-claim": ["--model", *SHARED, *GENERATING, "--reference", "--metrics"],
    "watch": ["--model", "--ema", "--every", "--num-samples", "--once", "--until", "--log"],
    "plot": ["--x", "--y", "--group", "--output", "--format"],
    "submit": ["--address", "--spec", "--detach", "--env", "--package", "--no-package"],
}


@pytest.mark.parametrize("line", [[], *COMMAND_LINES], ids=" ".join)
def test_help_has_two_examples(line: list[str], call: Callable[..., Outcome]) -> None:
    outcome = call(*line, "--help")
    assert outcome.code == 0
    assert outcome.stderr == ""
    _, _, after = outcome.stdout.partition("Examples:")
    examples = [text for text in after.splitlines() if "evalsuite" in text]
    assert len(examples) == 2
    assert all(" ".join(line) in text for text in examples if line)


@pytest.mark.parametrize("line", [[], *COMMAND_LINES], ids=" ".join)
def test_examples_use_options_that_exist(line: list[str], call: Callable[..., Outcome]) -> None:
    _, _, after = call(*line, "--help").stdout.partition("Examples:")
    for text in after.splitlines():
        if "evalsuite" not in text:
            continue
        line_alone = text[text.index("evalsuite") :].partition("|")[0].partition(" -- ")[0]
        words = shlex.split(line_alone)[1:]
        command = command_at([word for word in words if not word.startswith("-")])
        known = {name for parameter in [*command.params, *cli.params] for name in parameter.opts}
        options = {word for word in words if re.match(r"--[a-z]", word)}
        assert options <= known, text


def command_at(words: list[str]) -> click.Command:
    """The command that the first words name."""
    command: click.Command = cli
    for word in words:
        if not isinstance(command, click.Group):
            break
        found = command.get_command(click.Context(command), word)
        assert found is not None, word
        command = found
    return command


@pytest.mark.parametrize("name", CONTRACT)
def test_options_of_the_contract_exist(name: str) -> None:
    known = {option for parameter in command_at(name.split()).params for option in parameter.opts}
    assert set(CONTRACT[name]) <= known


@pytest.mark.parametrize("name", ["run", "generate", "sample"])
def test_aliases(name: str) -> None:
    options = {tuple(parameter.opts) for parameter in command_at([name]).params}
    assert ("--guidance-scale", "--cfg") in options
    assert ("--num-steps", "--steps") in options


def test_all_commands_are_listed(call: Callable[..., Outcome]) -> None:
    text = call("--help").stdout
    for name in COMMANDS:
        assert re.search(rf"^  {name} ", text, re.MULTILINE), name


@pytest.mark.parametrize(("asked", "nearest"), [("evalute", "evaluate"), ("generat", "generate")])
def test_an_unknown_command_names_the_nearest(
    asked: str, nearest: str, call: Callable[..., Outcome]
) -> None:
    outcome = call(asked)
    assert outcome.code == 2
    (line,) = outcome.complaints
    assert f"'{asked}'" in line
    assert f"did you mean '{nearest}'?" in line
    assert outcome.stdout == ""


def test_an_unknown_option_names_the_nearest(call: Callable[..., Outcome]) -> None:
    outcome = call("run", "--model", "pixnerd-digits", "--num-sample", "5")
    assert outcome.code == 2
    (line,) = outcome.complaints
    assert "--num-sample" in line
    assert "--num-samples" in line
    assert "evalsuite run --help" in line


def test_no_arguments_show_the_help(call: Callable[..., Outcome]) -> None:
    outcome = call()
    assert outcome.code == 2
    assert "Commands:" in outcome.stdout


@pytest.mark.parametrize(
    "line", [["--help"], ["run", "--help"], ["evaluate", "--help"]], ids=" ".join
)
def test_help_imports_nothing_heavy(line: list[str], tmp_path: Path) -> None:
    program = (
        "import json, sys, contextlib, io\n"
        "from evalsuite.cli.main import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        f"    main({line!r})\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(private=True),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    heavy = {"torch", "ray", "pydantic", "numpy", "scipy", "PIL", "pyarrow", "yaml", "rich"}
    assert not heavy & set(json.loads(done.stdout))

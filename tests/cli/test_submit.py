"""What `submit` refuses before anything is sent, and job specs."""

import http.server
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from harness import REPOSITORY, Outcome

from evalsuite.cli.submit import job_of, parsed
from evalsuite.config import JobSpec, ModelPreset, load_spec, names_of

Call = Callable[..., Outcome]
RUN = ("run", "--model", "pixnerd-digits")
OUTPUT = ("--output", "/shared/runs/a")
WATCH = ("watch", "ckpts/step_*.pt", *RUN[1:], *OUTPUT)
WAITING: set[str] = set()
"""Specs of commands that are still being built."""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "there is nothing to submit"),
        (("rum", *RUN[1:]), "'rum' cannot be submitted: did you mean 'run'?"),
        (("submit", "--", *RUN), "'submit' cannot be submitted"),
        ((*RUN, *OUTPUT, "--num-sample", "5"), "--num-samples"),
        ((*RUN, *OUTPUT, "--num-samples", "0"), "--num-samples"),
        (RUN, "`run` in a job needs --output: an absolute path"),
        ((*RUN, "--output", "runs/a"), "--output runs/a lies in the job's own folder"),
        ((*RUN, *OUTPUT, "--json", "a.json"), "--json a.json lies in the job's own folder"),
        ((*RUN, *OUTPUT, "--log", "tensorboard:tb"), "--log tensorboard:tb lies in the job's own"),
        ((*RUN, *OUTPUT, "--log", "mlflow:ml#a"), "--log mlflow:ml lies in the job's own folder"),
        ((*RUN, *OUTPUT, "--log", "tensorbord:/tb"), "--log tensorbord:/tb: give wandb:PROJECT"),
        (WATCH, "`watch` in a job needs --runs too"),
        ((*WATCH, "--runs", "/shared/runs"), "needs an absolute pattern"),
    ],
)
def test_a_command_is_checked_before_it_is_sent(
    words: tuple[str, ...], said: str, call: Call
) -> None:
    outcome = call("submit", "--address", "http://127.0.0.1:1", "--", *words)
    assert outcome.code == 2
    (line,) = outcome.complaints
    assert said in line


def test_what_lasts_may_be_logged_to() -> None:
    logs = ("tensorboard:/shared/tb", "mlflow:http://host:5000#a", "wandb:project")
    options = [word for log in logs for word in ("--log", log)]
    assert job_of([*RUN, *OUTPUT, *options], None, {}, None).words[-2:] == ["--address", "auto"]


def test_a_job_works_on_the_cluster_whatever_it_drives() -> None:
    """`evaluate` refuses an address for a run, and from here nobody sees what its samples are."""
    driven = job_of((*RUN, *OUTPUT), None, {}, None)
    assert (driven.words[-2:], driven.env) == (["--address", "auto"], {})
    scored = job_of(("evaluate", "/shared/samples.npz"), None, {"A": "b"}, None)
    assert scored.words == ["evaluate", "/shared/samples.npz"]
    assert scored.env == {"A": "b", "EVALSUITE_ADDRESS": "auto"}
    judged = ("t2i", "geneval", "/shared/run", "--detector", "shapes")
    assert job_of(judged, None, {}, None).env == {"EVALSUITE_ADDRESS": "auto"}
    assert job_of(("status", "/shared/run"), None, {}, None).env == {}


def test_evaluate_finds_the_cluster_of_its_job(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For samples; there is none at this address."""
    images = np.zeros((600, 16, 16, 3), np.uint8)
    np.savez(tmp_path / "samples.npz", images)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("EVALSUITE_ADDRESS", f"127.0.0.1:{port}")
    options = ("--reference", "digits-16-train", "--extractor", "digits-convnet")
    outcome = call("evaluate", "samples.npz", *options)
    assert outcome.code == 6
    assert f"nothing answers at 127.0.0.1:{port}" in outcome.complaints[-1]


def test_a_secret_does_not_travel(call: Call) -> None:
    outcome = call("submit", "--env", "HF_TOKEN=hf_abc", "--", *RUN, *OUTPUT)
    assert outcome.code == 2
    (line,) = outcome.complaints
    assert "--env HF_TOKEN looks like a secret" in line
    assert "hf_abc" not in outcome.stderr


@pytest.mark.parametrize("words", [("submit", "--", *RUN, *OUTPUT), ("jobs", "list")])
def test_an_address_where_nothing_listens(words: tuple[str, ...], call: Call) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    began = time.monotonic()
    place = 1 if words[0] == "submit" else 2
    outcome = call(*words[:place], "--address", f"http://127.0.0.1:{port}", *words[place:])
    assert time.monotonic() - began < 5
    assert outcome.code == 6
    (line,) = outcome.complaints
    assert line.startswith(f"evalsuite: nothing answers at http://127.0.0.1:{port} (")


@pytest.mark.parametrize("address", ["head:8265", "127.0.0.1", "ray://head:10001", "http://h:port"])
def test_addresses_of_another_kind(address: str, call: Call) -> None:
    outcome = call("jobs", "list", "--address", address)
    assert outcome.code == 2
    (line,) = outcome.complaints
    assert "must be http://HOST:PORT" in line


@pytest.fixture
def other_server() -> Iterator[str]:
    """A web server that is no Ray."""
    handler = http.server.BaseHTTPRequestHandler  # it answers 501 to everything
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_another_web_server(other_server: str, call: Call) -> None:
    outcome = call("jobs", "list", "--address", other_server)
    assert outcome.code == 6
    line = outcome.complaints[-1]
    assert f"what answers at {other_server} is no job server of Ray" in line


def spec_of(tmp_path: Path, text: str) -> str:
    (tmp_path / "job.yaml").write_text(text)
    return "job.yaml"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("about: a\ncomand: run\n", "unknown key 'comand': did you mean 'command'?"),
        ("about: a\n", "command: Field required"),
        ("about: a\ncommand: 'run \"'\n", "command: is no command line"),
        ("about: a\ncommand: evalsuite run\n", "leave that word out"),
        ("about: a\ncommand: run\nenv: {AWS_SECRET_ACCESS_KEY: x}\n", "looks like a secret"),
        ("about: a\ncommand: run\nwaits_for: the moon\n", "it waits for the moon"),
        ("about: a\ncommand: evaluate\n", "Missing argument"),
    ],
)
def test_a_faulty_spec(text: str, said: str, call: Call, tmp_path: Path) -> None:
    outcome = call("submit", "--spec", spec_of(tmp_path, text))
    assert outcome.code == 2
    (line,) = outcome.complaints
    assert said in line


def test_a_spec_takes_options_and_no_second_command(call: Call, tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "about: a\ncommand: run --model pixnerd-digits\n")
    outcome = call("submit", "--spec", spec, "--", *RUN)
    assert outcome.code == 2
    assert "give only options after `--`, not 'run'" in outcome.complaints[-1]
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    outcome = call("submit", "--address", f"http://127.0.0.1:{port}", "--spec", spec, "--", *OUTPUT)
    assert outcome.code == 6, "with an --output the job is whole: only the head is missing"


@pytest.mark.parametrize("name", names_of(JobSpec))
def test_every_spec_can_be_submitted_or_says_what_it_waits_for(name: str) -> None:
    spec = load_spec(JobSpec, name)
    assert (spec.waits_for is not None) == (name in WAITING), name
    if spec.waits_for is None:
        params = parsed(spec.words).params
        assert load_spec(ModelPreset, params["model"]).name == params["model"]
        assert params["output"] is None  # every cluster has another one


def test_every_family_has_specs_for_its_sizes() -> None:
    """Each family and size of class-conditional ImageNet models that a preset knows."""
    presets = [load_spec(ModelPreset, name) for name in names_of(ModelPreset)]
    known = {(p.family, p.size) for p in presets if p.text is None and p.size[0] >= 256}
    specs = [load_spec(JobSpec, name) for name in names_of(JobSpec)]
    models = [parsed(spec.words).params["model"] for spec in specs if spec.waits_for is None]
    covered = [load_spec(ModelPreset, model) for model in models]
    assert {(preset.family, preset.size) for preset in covered if preset.text is None} == known
    for spec in specs:
        preset = load_spec(ModelPreset, parsed(spec.words).params["model"])
        if spec.waits_for is None and preset.text is None and spec.words[0] == "run":
            assert parsed(spec.words).params["reference"] == f"adm-imagenet-{preset.size[0]}"


def test_the_pages_name_specs_that_exist() -> None:
    for page in ("cluster/README.md", "README.md", "evalsuite/cli/submit.py"):
        for name in re.findall(r"jobs/([\w.-]+\.yaml)", (REPOSITORY / page).read_text()):
            assert (REPOSITORY / "jobs" / name).is_file() or name == "NAME.yaml", name

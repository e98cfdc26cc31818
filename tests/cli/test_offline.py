"""`fetch` where there is a network, then `run --offline` where there is none."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from auditing import Audit, audited
from harness import REPOSITORY, Outcome, call_main, environment
from tiny_text import PROMPTS, network_of, save_lightning, state_of, tiny_text

from evalsuite.config import BenchmarkSpec, load_spec

FIRST, SECOND = "1" * 40, "2" * 40
MISSING = 6
"""Exit code of a machine that lacks something."""
OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
NO_ROUTE = (
    "unshare",
    "--map-root-user",
    "--net",
    "sh",
    "-c",
    'ip link set lo up && exec "$@"',
    "sh",
)
"""Runs a command in a network that has a loopback and nothing else."""


class Fetched(NamedTuple):
    """What `fetch` brought from a hub whose branch has moved since."""

    folder: Path
    outcome: Outcome
    hub: Any
    variables: dict[str, str]

    @property
    def lock(self) -> dict[str, Any]:
        return json.loads((self.folder / "text.lock.json").read_text())


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fetched]:
    """A preset that names its weights and its encoder on a hub, and nothing by hash."""
    sys.path.insert(0, str(REPOSITORY / "tests" / "artifacts"))
    from hub_server import Hub, serving

    folder = tmp_path_factory.mktemp("offline")
    model = tiny_text(folder)
    preset = yaml.safe_load(model.preset.read_text())
    place = {"repo": "someone/model", "filename": "model.ckpt", "layout": "lightning"}
    preset["weights"] = {"places": [place]}
    model.preset.write_text(yaml.safe_dump(preset))
    newer = {"ema_denoiser": state_of("pixelgen-text", network_of("pixelgen"), 9)}
    files = {(FIRST, path.name): path.read_bytes() for path in model.encoder.iterdir()}
    files |= {(SECOND, name): content for (_, name), content in files.items()}
    files[FIRST, "model.ckpt"] = model.weights.read_bytes()
    files[SECOND, "model.ckpt"] = save_lightning(folder / "newer.ckpt", newer).read_bytes()
    model.weights.unlink()
    shutil.rmtree(model.encoder)
    with serving(Hub(files=files)) as hub:
        variables = {
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(folder / "hf"),
            "EVALSUITE_CACHE": str(folder / "cache"),
        }
        command = ("fetch", "--model", model.preset, "--prompts", model.prompts)
        with here(folder, variables):
            outcome = call_main(*command, "--output", folder / "text.lock.json")
        assert outcome.code == 0, outcome.stderr
        hub.branches["main"] = SECOND
        hub.requests.clear()
        yield Fetched(folder, outcome, hub, variables)


@contextlib.contextmanager
def here(folder: Path, variables: dict[str, str]) -> Iterator[None]:
    """Variables for commands in this process, whose hub client has read its own long ago."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, value in {**variables, **dict.fromkeys(OFFLINE_VARIABLES, "0")}.items():
            patch.setenv(name, value)
        hub_cache = str(Path(variables["HF_HOME"]) / "hub")
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", hub_cache)
        yield


def without_network(fetched: Fetched, *arguments: object, **variables: str) -> Outcome:
    """A command where no packet leaves the machine; skips where that cannot be arranged."""
    if subprocess.run([*NO_ROUTE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let tests make a network namespace")
    done = subprocess.run(
        [*NO_ROUTE, sys.executable, "-m", "evalsuite", *map(str, arguments)],
        cwd=fetched.folder,
        env=environment(private=True, **{**fetched.variables, **variables}),
        capture_output=True,
        text=True,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def offline_run(fetched: Fetched) -> tuple[Path, Audit]:
    """Made from the lock file by a private Ray in a network without a route."""
    audit = audited(fetched.folder / "audit")
    plan = ("--model", "tiny-pixelgen.yaml", "--prompts", "prompts.txt", "--num-samples", 4)
    work = ("--num-workers", 1, "--output", "made", "--offline", "--lock", "text.lock.json")
    outcome = without_network(fetched, "run", *plan, *work, **audit.environment)
    assert outcome.code == 0, outcome.stderr
    return fetched.folder / "made", audit


def test_fetch_takes_the_benchmark_of_the_run(tmp_path: Path) -> None:
    """Its prompts decide the plan, and each of its files is in the lock file."""
    lock = tmp_path / "shapes.lock.json"
    asked = ("--model", "pixnerd-shapes", "--benchmark", "shapes")
    outcome = call_main("fetch", *asked, "--output", lock)
    assert outcome.code == 0, outcome.stderr
    items = json.loads(lock.read_text())["items"]
    spec = load_spec(BenchmarkSpec, "shapes")
    assert [item["name"] for item in items if item["what"] == "benchmark"] == [
        Path(str(file.file)).name for file in spec.files
    ]
    offline = call_main("generate", *asked, "--offline", "--lock", lock, "--dry-run")
    assert offline.code == 0, offline.stderr
    both = call_main("fetch", *asked, "--prompt", "a cat", "--output", lock)
    assert "leave --prompts and --prompt out" in both.stderr


def test_a_benchmark_of_other_bytes_than_the_locks_is_refused(tmp_path: Path) -> None:
    """Its prompts are in no other item: one letter of one of them is enough."""
    folder = REPOSITORY / "configs" / "benchmarks"
    for name in ("shapes.yaml", "shapes.jsonl"):
        shutil.copy(folder / name, tmp_path / name)
    lock = ("--lock", tmp_path / "shapes.lock.json")
    asked = ("--model", "pixnerd-shapes", "--benchmark", tmp_path / "shapes.yaml")
    assert call_main("fetch", *asked, "--output", lock[1]).code == 0
    assert call_main("generate", *asked, *lock, "--dry-run").code == 0
    prompts = tmp_path / "shapes.jsonl"
    prompts.write_text(prompts.read_text().replace('"a picture', '"A picture', 1))
    refused = call_main("generate", *asked, *lock, "--dry-run")
    assert refused.code == 3
    assert "benchmark shapes.jsonl" in refused.complaints[-1]
    assert "is not what the lock file holds" in refused.complaints[-1]


def test_the_lock_file_names_everything_by_hash(fetched: Fetched) -> None:
    """Weights and encoder with their commits; the encoder's repository as a folder."""
    lock = fetched.lock
    assert lock["model"] == "tiny-pixelgen"
    weights, encoder = lock["items"]
    assert (weights["what"], weights["filename"]) == ("weights", "model.ckpt")
    assert (encoder["what"], encoder["name"]) == ("text encoder", "someone/model")
    assert "filename" not in encoder
    for item in (weights, encoder):
        assert (item["repo"], item["revision"]) == ("someone/model", FIRST)
        assert len(item["sha256"]) == 64
        assert item["sha256"][:12] in fetched.outcome.stdout
    assert str(fetched.folder) not in json.dumps(lock)


@pytest.mark.ray
def test_an_offline_run_takes_what_was_locked(
    fetched: Fetched, offline_run: tuple[Path, Audit]
) -> None:
    """The commits of the lock file, though the branch has moved; the hub hears nothing."""
    manifest = json.loads((offline_run[0] / "manifest.json").read_text())
    origin = manifest["weights_origin"]
    assert (origin["revision"], origin["text_encoder_revision"]) == (FIRST, FIRST)
    assert manifest["plan"]["weights_sha256"] == fetched.lock["items"][0]["sha256"]
    assert manifest["prompts"] == list(PROMPTS)
    assert fetched.hub.requests == []


@pytest.mark.ray
def test_driver_and_workers_connect_to_ray_alone(offline_run: tuple[Path, Audit]) -> None:
    """They stay on the loopback and look up no name.

    The interpreter notes its own sockets; what is below it could not have left the namespace. Ray's
    dashboard process is left out: it asks for a cloud's metadata address, whatever it is told.
    """
    audit = offline_run[1]
    ours = [note for note in audit.all_notes() if not note.is_rays_own]
    assert {Path(note.program).name for note in ours} >= {"__main__.py", "default_worker.py"}
    events = ("socket.connect", "socket.sendto", "socket.getaddrinfo")
    hosts = {note.host for note in ours if note.event in events}
    assert hosts <= {"127.0.0.1", "localhost", "::1", None}


@pytest.mark.ray
def test_an_offline_run_is_verified_offline(
    fetched: Fetched, offline_run: tuple[Path, Audit]
) -> None:
    """Without saying where things are: the manifest knows the commits, the cache has them."""
    with here(fetched.folder, fetched.variables):
        outcome = call_main("verify", offline_run[0], "--offline", "--num-batches", 1)
    assert outcome.code == 0, outcome.stderr
    assert ": equal" in outcome.stdout
    assert fetched.hub.requests == []


def test_what_is_missing_offline_is_named(fetched: Fetched, tmp_path: Path) -> None:
    """One line, before any work."""
    plan = ("--model", "tiny-pixelgen.yaml", "--prompts", "prompts.txt", "--output", tmp_path / "r")
    empty = {**fetched.variables, "HF_HOME": str(tmp_path / "hf")}
    with here(fetched.folder, empty):
        outcome = call_main("run", *plan, "--offline")
    assert outcome.code == MISSING
    (line,) = outcome.complaints
    assert "someone/model@main is not in the hub's cache" in line
    assert "--offline looks nothing up: fetch it before" in line
    assert fetched.hub.requests == []
    assert not (tmp_path / "r").exists()


def test_offline_is_told_to_every_library(monkeypatch: pytest.MonkeyPatch) -> None:
    from evalsuite.cli.resolve import go_offline

    for name in OFFLINE_VARIABLES:
        monkeypatch.setenv(name, "0")
    go_offline()
    assert [os.environ[name] for name in OFFLINE_VARIABLES] == ["1", "1", "1"]


@pytest.fixture
def digits_lock(call: Callable[..., Outcome], tmp_path: Path) -> Path:
    """What a run of the digits opens: all of it travels with the package."""
    outcome = call("fetch", "--model", "pixnerd-digits", "--metrics", "fid")
    assert outcome.code == 0, outcome.stderr
    assert [line.split()[0] for line in outcome.stdout.splitlines()] == [
        "weights",
        "extractor",
        "reference",
        "lock",
    ]
    return tmp_path / "evalsuite.lock.json"


def test_a_run_that_opens_other_things_than_the_lock_is_refused(
    digits_lock: Path, call: Callable[..., Outcome], tmp_path: Path
) -> None:
    """Weights, extractor and reference each count; `sample` looks at what it uses."""
    import torch
    from safetensors.torch import load_file, save_file

    own = REPOSITORY / "configs" / "models" / "pixnerd-digits.safetensors"
    state = load_file(own)
    state["final_layer.linear.bias"] = state["final_layer.linear.bias"] + torch.ones(1)
    save_file(state, tmp_path / "other.safetensors")
    model = ("--model", "pixnerd-digits", "--lock", digits_lock)
    assert call("run", *model, "--dry-run").code == 0
    for command in ("run", "sample"):
        more = ("--index", 0) if command == "sample" else ("--dry-run",)
        outcome = call(command, *model, "--weights", "other.safetensors", *more)
        assert outcome.code == 3
        assert "weights other.safetensors" in outcome.complaints[-1]
        assert "is not what the lock file holds" in outcome.complaints[-1]
    lock = json.loads(digits_lock.read_text())
    lock["items"] = [item for item in lock["items"] if item["what"] != "reference"]
    digits_lock.write_text(json.dumps(lock))
    outcome = call("run", *model, "--dry-run")
    assert outcome.code == 3
    assert "reference digits-16-train" in outcome.complaints[-1]


def test_fetch_refuses_what_run_would_refuse(call: Callable[..., Outcome], tmp_path: Path) -> None:
    for options, words in (
        (("--metrics", "fidd"), "did you mean 'fid'"),
        (("--prompt", "a cat"), "class-conditional"),
        (("--output", tmp_path), "is a folder"),
        (("--lock", "none.json"), "lock file none.json does not exist"),
    ):
        outcome = call("fetch", "--model", "pixnerd-digits", *options)
        assert outcome.code == 2
        assert words in outcome.complaints[-1]
    assert list(tmp_path.iterdir()) == []

"""A stranger's class: found, asked for its settings, and refused in one line where it cannot be."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from evalsuite.config import data_root
from evalsuite.errors import ConfigError, DataError, UsageError
from evalsuite.models.foreign import foreign_model
from evalsuite.pipeline.foreign_weights import (
    AS_SAVED,
    NO_WEIGHTS_SHA256,
    check_foreign_weights,
    find_foreign_weights,
)
from evalsuite.pipeline.generation import BatchSampler
from evalsuite.pipeline.plan import PlanOptions, ResolvedPlan, resolve_plan
from evalsuite.pipeline.weights import WeightsRequest

STRANGER = Path(__file__).parent / "stranger"
DIGITS = data_root() / "configs" / "models" / "pixnerd-digits.safetensors"
OPTIONS = PlanOptions(
    model=str(STRANGER / "edm-toy.yaml"), sampling={"num_steps": 2}, batch_size=4, trust_code=True
)
NOISE = '''"""Noise, returned as it came."""
from pydantic import BaseModel

class Noise:
    """Noise."""
    condition, num_classes, size, batch_size, needs_weights = "class", 3, (4, 4), 2, False

    class Settings(BaseModel):
        gain: float = 0.5

    def load(self, weights, ema, device, dtype):
        pass

    def sample(self, noise, conditions, generators, settings):
        return noise * settings.gain
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, with the module `noise_model`."""
    (tmp_path / "noise_model.py").write_text(NOISE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("noise_model", None)


def noise_plan(**options: object) -> ResolvedPlan:
    """The plan of the class in the working directory."""
    given = {"model": "python:noise_model:Noise", "trust_code": True, **options}
    return resolve_plan(PlanOptions(**given))


def sampler_of(resolved: ResolvedPlan, folder: Path) -> BatchSampler:
    return BatchSampler(resolved.plan, resolved.materials, torch.device("cpu"), folder)


def test_the_strangers_sampler_has_at_most_40_lines() -> None:
    """Blank lines and comments not counted."""
    lines = [line.strip() for line in (STRANGER / "edm_toy.py").read_text().splitlines()]
    assert len([line for line in lines if line and not line.startswith("#")]) <= 40


def test_the_strangers_settings_are_plan_fields(tmp_path: Path) -> None:
    plan = resolve_plan(OPTIONS).plan
    assert plan.settings == {
        "num_steps": 2,
        "guidance_scale": 1.5,
        "churn": 3.0,
        "sigma_max": 80.0,
    }
    assert plan.sampling is None
    assert plan.source_sha256
    other = resolve_plan(PlanOptions(OPTIONS.model, sampling={"churn": 0}, trust_code=True)).plan
    assert other.settings["churn"] == 0
    assert other.plan_id != plan.plan_id


def test_the_strangers_fresh_noise_is_that_of_its_seeds(tmp_path: Path) -> None:
    """With churn it draws at every step: batches in another order, on another model, are equal."""
    resolved = resolve_plan(OPTIONS)
    sampler = sampler_of(resolved, tmp_path)
    forth = [sampler.pixel_hashes(0), sampler.pixel_hashes(1)]
    again = sampler_of(resolved, tmp_path)
    assert [again.pixel_hashes(1), again.pixel_hashes(0)] == forth[::-1]
    calm = PlanOptions(OPTIONS.model, sampling={"num_steps": 2, "churn": 0}, trust_code=True)
    assert sampler_of(resolve_plan(calm), tmp_path).pixel_hashes(0)[:4] != forth[0]


def test_a_class_in_the_working_directory_makes_images(folder: Path) -> None:
    """Without weights, by its own attributes alone."""
    resolved = noise_plan(sampling={"gain": 0.25})
    plan = resolved.plan
    assert (plan.settings, plan.num_classes, plan.size) == ({"gain": 0.25}, 3, (4, 4))
    assert (plan.weights_sha256, plan.ema, plan.batch_size) == (NO_WEIGHTS_SHA256, AS_SAVED, 2)
    images = sampler_of(resolved, folder).batch(0).rows.images_NHWC
    noise = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(1))
    expected = ((noise * 0.25 + 1) * 127.5 + 0.5).clamp(0, 255).to(torch.uint8)
    assert (images[1] == expected.permute(1, 2, 0).numpy()).all()


def test_code_does_not_run_unasked(folder: Path) -> None:
    """Not even its import."""
    (folder / "noise_model.py").write_text("raise SystemExit('it ran')\n")
    with pytest.raises(UsageError, match="--trust-remote-code"):
        noise_plan(trust_code=False)
    with pytest.raises(UsageError, match="--trust-remote-code"):
        resolve_plan(PlanOptions(OPTIONS.model))


@pytest.mark.parametrize(
    ("model", "fault"),
    [
        ("python:noise_model", "is not python:package.module:Class"),
        ("python:noise_model:", "is not python:package.module:Class"),
        ("python:no_such_module:Noise", "cannot import no_such_module"),
        ("python:noise_model:Nothing", "has no class 'Nothing'"),
        ("python:noise_model:BaseModel", "has no method load"),
    ],
)
def test_names_that_are_no_class_are_refused(folder: Path, model: str, fault: str) -> None:
    with pytest.raises(UsageError, match=fault):
        noise_plan(model=model)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("class Settings(BaseModel)", "class Other(BaseModel)", "no pydantic class Settings"),
        ("class Settings(BaseModel)", "class Settings", "no pydantic class Settings"),
        ("def sample(", "def draw(", r"no method sample\(\)"),
        ('= "class", 3', '= "image", 3', "must be 'class' or 'text'"),
        ("condition, num_classes,", "condition, classes,", "lacks num_classes"),
        ("size, batch_size,", "side, batches,", "lacks size, batch_size"),
    ],
)
def test_classes_of_another_shape_are_refused(folder: Path, old: str, new: str, fault: str) -> None:
    assert old in NOISE
    (folder / "noise_model.py").write_text(NOISE.replace(old, new))
    with pytest.raises(ConfigError, match=fault):
        noise_plan()


@pytest.mark.parametrize(
    ("sampling", "fault"),
    [
        ({"gian": 1.0}, "no setting 'gian': did you mean 'gain'"),
        ({"gain": "loud"}, "gain: "),
        ({"num_steps": 3}, "no setting 'num_steps'"),
    ],
)
def test_settings_that_it_lacks_or_refuses_are_one_line(
    folder: Path, sampling: dict[str, object], fault: str
) -> None:
    with pytest.raises(UsageError, match=fault) as caught:
        noise_plan(sampling=sampling)
    assert "\n" not in str(caught.value)


def test_code_that_changed_since_the_plan_is_refused(folder: Path) -> None:
    """A worker that starts later must not compute with other code."""
    resolved = noise_plan()
    sampler_of(resolved, folder)
    (folder / "noise_model.py").write_text(NOISE.replace("* settings.gain", "/ settings.gain"))
    with pytest.raises(DataError, match="it has changed since"):
        sampler_of(resolved, folder)
    assert noise_plan().plan.plan_id != resolved.plan.plan_id


def test_a_package_is_hashed_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change in a module beside the class's own is a change of the plan."""
    package = tmp_path / "noise_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "model.py").write_text(NOISE)
    (package / "helper.py").write_text("x = 1\n")
    monkeypatch.setattr(sys, "path", [*sys.path])

    def source() -> str | None:
        return foreign_model("python:noise_package.model:Noise", tmp_path, True).source_sha256

    before = source()
    (package / "helper.py").write_text("x = 2\n")
    assert source() != before


def test_weights_are_those_that_were_given_or_named() -> None:
    """By the preset, or by the user; with the EMA that was asked for."""
    found = foreign_model("python:edm_toy:EdmToy", STRANGER, True)
    given = find_foreign_weights(found, WeightsRequest(given=str(DIGITS), ema="raw"))
    assert (given.path, given.ema) == (DIGITS.resolve(), "raw")
    named = resolve_plan(OPTIONS)
    assert named.plan.weights_sha256 == given.sha256
    assert named.plan.ema == AS_SAVED


@pytest.mark.parametrize(
    ("request_", "kind", "fault"),
    [
        (WeightsRequest(), UsageError, "needs weights: give --weights"),
        (WeightsRequest(given="random:1"), UsageError, "loads its weights itself"),
        (WeightsRequest(given="none.safetensors"), DataError, "does not exist"),
    ],
)
def test_weights_that_cannot_be_had_are_one_line(
    request_: WeightsRequest, kind: type[Exception], fault: str
) -> None:
    with pytest.raises(kind, match=fault):
        find_foreign_weights(foreign_model("python:edm_toy:EdmToy", STRANGER, True), request_)


def test_a_model_without_weights_has_no_ema(folder: Path) -> None:
    found = foreign_model("python:noise_model:Noise", folder, True)
    with pytest.raises(UsageError, match="has no weights"):
        find_foreign_weights(found, WeightsRequest(ema="raw"))
    check_foreign_weights(None, NO_WEIGHTS_SHA256)
    with pytest.raises(DataError, match="give --weights"):
        check_foreign_weights(None, "0" * 64)


def linked_shards(folder: Path, value: float) -> Path:
    """An index and its shard as a hub's cache holds them: links to files of other names."""
    blobs, snapshot = folder / "blobs", folder / "snapshot"
    blobs.mkdir(parents=True)
    snapshot.mkdir()
    save_file({"w": torch.full((2,), value)}, blobs / "1")
    (blobs / "2").write_text(json.dumps({"weight_map": {"w": "part.safetensors"}}))
    index = snapshot / "model.safetensors.index.json"
    (snapshot / "part.safetensors").symlink_to(blobs / "1")
    index.symlink_to(blobs / "2")
    return index


def test_an_index_stands_for_the_bytes_of_its_shards(tmp_path: Path) -> None:
    """Other weights under the same index are another plan; it may be a link."""
    found = foreign_model("python:edm_toy:EdmToy", STRANGER, True)
    first, second = (
        find_foreign_weights(found, WeightsRequest(given=str(linked_shards(tmp_path / n, value))))
        for n, value in (("a", 1.0), ("b", 2.0))
    )
    assert first.sha256 != second.sha256
    assert first.path is not None
    assert first.path.name == "model.safetensors.index.json"
    with pytest.raises(DataError, match="are not the plan's"):
        check_foreign_weights(first.path, second.sha256)


def test_a_folder_of_weights_is_hashed_file_by_file(tmp_path: Path) -> None:
    """Hidden files do not count; a name, or a byte, does."""
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "a.bin").write_bytes(b"a")
    (weights / "b.bin").write_bytes(b"b")
    found = foreign_model("python:edm_toy:EdmToy", STRANGER, True)
    sha256 = find_foreign_weights(found, WeightsRequest(given=str(weights))).sha256
    (weights / ".cache").write_bytes(b"c")
    check_foreign_weights(weights, sha256)
    (weights / "b.bin").rename(weights / "c.bin")
    with pytest.raises(DataError, match="are not the plan's"):
        check_foreign_weights(weights, sha256)

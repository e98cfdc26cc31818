"""A stranger's code: which of it is in the plan, how its faults are told, where verify finds it."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import call_main
from run_maker import make_shard

from evalsuite.artifacts.manifest import Manifest
from evalsuite.artifacts.run_directory import IMAGES, RunDirectory
from evalsuite.errors import ConfigError, DataError, StorageError, UsageError
from evalsuite.models.foreign import foreign_model
from evalsuite.pipeline.generation import BatchSampler
from evalsuite.pipeline.materials import RerunRequest, materials_of
from evalsuite.pipeline.plan import PlanOptions, ResolvedPlan, resolve_plan
from evalsuite.pipeline.stages import OutputFormat
from evalsuite.pipeline.worker import ShardWorker, WorkerJob

CPU = torch.device("cpu")
MODEL = "python:stranger_model:Scaled"
CODE = '''"""Noise, scaled by a number from a module beside this one."""
from pydantic import BaseModel
import stranger_net

class Scaled:
    """Noise, scaled."""
    condition, num_classes, size, batch_size, needs_weights = "class", 3, (4, 4), 2, False

    class Settings(BaseModel):
        gain: float = 0.5

    def load(self, weights, ema, device, dtype):
        pass

    def sample(self, noise, conditions, generators, settings):
        import stranger_late
        return noise * stranger_net.GAIN
'''
PRESET = """
name: stranger
title: stranger
description: stranger
family: python:stranger_model:Scaled
licence: none
num_classes: 3
size: [4, 4]
batch_size: 2
evaluation: {num_samples: 2}
"""


def forget() -> None:
    """As in a new process."""
    for name in [name for name in sys.modules if name.startswith("stranger_")]:
        del sys.modules[name]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, with a class, a module that it imports, and others."""
    files = {
        "stranger_model.py": CODE,
        "stranger_net.py": "GAIN = 0.9\nfrom stranger_space.inner import user\n",
        "stranger_late.py": "",
        "stranger_space/inner/user.py": "from .. import sibling\nfrom stranger_pack.a import b\n",
        "stranger_space/sibling.py": "",
        "stranger_pack/__init__.py": "",
        "stranger_pack/a.py": "b = 1\n",
        "stranger_pack/unnamed.py": "",
        "stranger_other.py": "",
        "notes.txt": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a file may change within a second
    forget()
    yield tmp_path
    forget()


def resolved(model: str = MODEL) -> ResolvedPlan:
    return resolve_plan(PlanOptions(model, trust_code=True))


def hashes(found: ResolvedPlan) -> list[str]:
    return BatchSampler(found.plan, found.materials, CPU).pixel_hashes(0)


def test_a_module_that_is_imported_belongs_to_the_plan(folder: Path) -> None:
    """Changed beside the class, it is another plan, and a later worker of the old one refuses."""
    before = resolved()
    first = hashes(before)
    (folder / "stranger_net.py").write_text("GAIN = 0.1\n")
    forget()
    with pytest.raises(DataError, match="it has changed since"):
        hashes(before)
    forget()
    after = resolved()
    assert after.plan.plan_id != before.plan.plan_id
    assert hashes(after) != first


@pytest.mark.parametrize(
    ("file", "counts"),
    [
        ("stranger_late.py", True),
        ("stranger_space/inner/user.py", True),
        ("stranger_space/sibling.py", True),
        ("stranger_pack/a.py", True),
        ("stranger_pack/unnamed.py", True),
        ("stranger_other.py", False),
        ("notes.txt", False),
    ],
)
def test_what_counts_is_what_imports_reach(folder: Path, file: str, counts: bool) -> None:
    """In functions too, from module to module, and packages whole; nothing else of the folder."""
    before = resolved().plan.source_sha256
    with (folder / file).open("a") as text:
        text.write("\n# changed\n")
    assert (resolved().plan.source_sha256 != before) == counts


def test_the_digest_does_not_depend_on_what_was_imported_before(folder: Path) -> None:
    """Nor on where the folder lies."""
    before = resolved().plan.source_sha256
    import stranger_late  # noqa: F401
    import stranger_other  # noqa: F401

    assert resolved().plan.source_sha256 == before
    forget()
    moved = folder.rename(folder.parent / "moved")
    sys.path[:] = [entry for entry in sys.path if entry != str(folder)]
    assert foreign_model(MODEL, moved, True).source_sha256 == before


def test_a_class_of_another_folder_of_the_path_counts_with_what_it_imports(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """It is found through `sys.path`, and so are the modules beside it."""
    sys.path.insert(0, str(folder))
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    before = foreign_model(MODEL, elsewhere, True).source_sha256
    (folder / "stranger_net.py").write_text("GAIN = 0.1\n")
    assert foreign_model(MODEL, elsewhere, True).source_sha256 != before


def test_evalsuite_itself_does_not_count(folder: Path) -> None:
    """Even where the working directory is its checkout."""
    (folder / "stranger_late.py").write_text("import evalsuite.config\n")
    before = resolved().plan.source_sha256
    (folder / "evalsuite").mkdir()
    (folder / "evalsuite" / "__init__.py").touch()
    assert resolved().plan.source_sha256 == before


@pytest.mark.parametrize(
    ("module", "text", "fault"),
    [
        ("model", "x = 1\ny = (\n", r"stranger_model\.py, line 2: SyntaxError: '\(' was never"),
        ("net", "def f(:\n", r"stranger_net\.py, line 1: SyntaxError"),
        ("net", "x = 1\n1 / 0\n", r"stranger_net\.py, line 2: ZeroDivisionError"),
        ("net", "\nimport no_such\n", r"stranger_net\.py, line 2: ModuleNotFoundError: No module"),
        ("model", "import json\njson.loads('')\n", r"stranger_model\.py, line 2: JSONDecodeError"),
        ("model", "raise SystemExit(2)\n", r"stranger_model\.py, line 1: SystemExit: 2"),
    ],
)
def test_code_that_cannot_be_imported_is_one_line(
    folder: Path, module: str, text: str, fault: str
) -> None:
    """With the file and the line, and never the whole path of this machine."""
    (folder / f"stranger_{module}.py").write_text(text)
    with pytest.raises(UsageError, match=fault) as caught:
        resolved()
    assert "\n" not in str(caught.value)
    assert str(folder) not in str(caught.value)


def test_a_fault_of_the_users_code_ends_with_exit_code_2(folder: Path) -> None:
    """One line and no traceback."""
    (folder / "stranger_net.py").write_text("syntax error here(\n")
    outcome = call_main("sample", "--model", MODEL, "--trust-remote-code", "--index", 0)
    assert outcome.code == 2
    assert outcome.stderr.strip().count("\n") == 0
    assert "stranger_net.py, line 1: SyntaxError" in outcome.stderr


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("import stranger_late\n", "raise ValueError('boom\\nbang')\n", "in sample()"),
        ("        pass\n", "        raise KeyError('boom bang')\n", "in load()"),
        ("GAIN\n", "GAIN @ noise[0, 0, 0, :2]\n", "in sample()"),
    ],
)
def test_an_exception_of_the_users_class_is_one_line(
    folder: Path, old: str, new: str, told: str
) -> None:
    """Its type, and where in the user's own code it came from; --debug has the rest."""
    code = CODE.replace(old, new)
    (folder / "stranger_model.py").write_text(code)
    line = 1 + code[: code.index(new)].count("\n")
    command = ("sample", "--model", MODEL, "--trust-remote-code", "--index", 0)
    outcome = call_main(*command)
    assert outcome.code == 3
    (said,) = outcome.complaints
    assert f"{MODEL} failed {told}: stranger_model.py, line {line}: " in said
    assert "Error: " in said
    assert "evalsuite --debug sample" in said
    with pytest.raises(DataError) as caught:
        call_main("--debug", *command)
    assert caught.value.__cause__ is not None


def test_errors_of_ours_in_the_users_class_stay_what_they_are(folder: Path) -> None:
    raising = "from evalsuite.errors import StorageError; raise StorageError('a full disk')\n"
    (folder / "stranger_model.py").write_text(CODE.replace("import stranger_late\n", raising))
    with pytest.raises(StorageError, match=r"^a full disk$"):
        hashes(resolved())


def test_verify_names_the_likely_cause_of_other_pixels(folder: Path) -> None:
    """A class that draws noise of its own; the list of samples ends with how many there are."""
    own = "import torch; return noise + torch.rand(noise.shape)\n"
    (folder / "stranger_model.py").write_text(CODE.replace("import stranger_late\n", own))
    trusted = ("--trust-remote-code", "--device", "cpu")
    run = RunDirectory.create_or_open(folder / "made", manifest_of(resolved()))
    worker = ShardWorker(
        WorkerJob(
            str(run.root), resolved().materials, (), OutputFormat("all", "parquet"), device="cpu"
        )
    )
    worker.load()
    for start in (0, 4):
        make_shard(worker, start, start + 4, (IMAGES,))
    outcome = call_main("verify", "made", "--num-batches", 9, *trusted)
    assert outcome.code == 3
    assert "samples 0, 1, 2, 3, 4 and 3 more came out" in outcome.stderr
    assert "draws random numbers elsewhere than from `generators`" in outcome.stderr


@pytest.mark.parametrize(
    ("added", "fault"),
    [
        ("network: {depth: 7}", "`network` has no effect"),
        ("sampling: {solver: euler, num_steps: 3, guidance_scale: 2}", "`sampling` has no effect"),
        (
            "text: {encoder: {kind: qwen3, repo: a/b, max_length: 4, width: 8}}",
            "`text` has no effect",
        ),
        ("num_classes: 9", "num_classes is 9; .* has 3"),
        ("num_classes: null", "num_classes is None; .* has 3"),
    ],
)
def test_keys_without_effect_or_against_the_class_are_refused(
    folder: Path, added: str, fault: str
) -> None:
    kept = PRESET.replace("num_classes: 3\n", "") if "num_classes" in added else PRESET
    (folder / "mine.yaml").write_text(f"{kept}{added}\n")
    with pytest.raises(ConfigError, match=fault):
        resolved("mine.yaml")


def test_classes_must_fit_a_preset_both_ways(folder: Path) -> None:
    """A text class takes none; a class without `num_classes` leaves it to the preset."""
    (folder / "mine.yaml").write_text(PRESET)
    (folder / "stranger_model.py").write_text(CODE.replace('= "class", 3', '= "text", 3'))
    with pytest.raises(ConfigError, match="takes prompts"):
        resolved("mine.yaml")
    forget()
    (folder / "stranger_model.py").write_text(CODE.replace("num_classes,", "classes,"))
    assert resolved("mine.yaml").plan.num_classes == 3
    (folder / "mine.yaml").write_text(PRESET.replace("num_classes: 3\n", ""))
    with pytest.raises(ConfigError, match="num_classes is missing"):
        resolved("mine.yaml")


def test_attributes_that_make_no_preset_are_one_line(folder: Path) -> None:
    (folder / "stranger_model.py").write_text(CODE.replace("(4, 4)", "4"))
    with pytest.raises(ConfigError, match="size"):
        resolved()


def manifest_of(found: ResolvedPlan) -> Manifest:
    given: dict[str, Any] = {"formats": {}, "created_at": "2026-01-01T00:00:00+00:00"}
    return Manifest(model=found.preset.name, plan_id=found.plan.plan_id, plan=found.plan, **given)


def test_verify_finds_the_code_beside_the_preset_that_it_names(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From another working directory, with the weights that the preset names."""
    (folder / "weights.bin").write_bytes(b"weights")
    (folder / "mine.yaml").write_text(f"{PRESET}weights: {{file: weights.bin}}\n")
    found = resolved("mine.yaml")
    made, manifest = hashes(found), manifest_of(found)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    sys.path[:] = [entry for entry in sys.path if entry != str(folder)]
    forget()
    preset = f"../{folder.name}/mine.yaml"
    with pytest.raises(UsageError, match="--trust-remote-code"):
        materials_of(manifest, RerunRequest(model=preset))
    lost = materials_of(
        manifest, RerunRequest(trust_code=True, weights=str(folder / "weights.bin"))
    )
    with pytest.raises(UsageError, match=r"cannot import stranger_model: .* looked for beside"):
        BatchSampler(found.plan, lost, CPU)
    again = materials_of(manifest, RerunRequest(model=preset, trust_code=True))
    assert again.code_folder == folder
    assert BatchSampler(found.plan, again, CPU).pixel_hashes(0) == made


def test_verify_refuses_a_model_of_another_family(folder: Path) -> None:
    """Another class, and one of ours."""
    manifest = manifest_of(resolved())
    (folder / "stranger_second.py").write_text(CODE)
    for model, fault in (
        ("python:stranger_second:Scaled", "the run's is python:stranger_model"),
        ("pixnerd-digits", "of our family pixnerd-class"),
    ):
        with pytest.raises(UsageError, match=fault):
            materials_of(manifest, RerunRequest(model=model, trust_code=True))

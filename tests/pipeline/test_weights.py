"""Weights in plans: which, from where, and refused before any work when they are others."""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from harness import REPOSITORY, environment
from safetensors.torch import save_file
from tiny_text import save_lightning, state_of
from torch import Tensor

from evalsuite.config import Plan
from evalsuite.errors import CorruptionError, DataError, EnvironmentProblem, UsageError
from evalsuite.models.checkpoints.convert import convert
from evalsuite.pipeline.generation import BatchSampler
from evalsuite.pipeline.lock import Lock, LockedItem, read_lock, write_lock
from evalsuite.pipeline.plan import PlanOptions, ResolvedPlan, resolve_plan
from evalsuite.pipeline.weights import UNSTATED, WeightsRequest, from_hub, weights_sha256

NETWORK: dict[str, Any] = {
    "hidden_size": 16,
    "num_groups": 2,
    "num_blocks": 3,
    "num_cond_blocks": 2,
    "hidden_size_x": 8,
    "nerf_mlpratio": 2,
    "patch_size": 4,
    "num_classes": 10,
}
KEYS = REPOSITORY / "tests" / "golden" / "cases"


def small_state(seed: int) -> dict[str, Tensor]:
    return state_of("pixnerd-class", NETWORK, seed)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A researcher's preset: a small network of a published family, no weights of its own."""
    path = tmp_path_factory.mktemp("preset") / "small.yaml"
    content = {
        "extends": "pixnerd-xl-256",
        "name": "small",
        "network": NETWORK,
        "num_classes": 10,
        "class_names": None,
        "size": [16, 16],
        "sampling": {"num_steps": 2, "dtype": "float32"},
        "batch_size": 2,
    }
    path.write_text(yaml.safe_dump(content))
    return str(path)


@pytest.fixture(scope="module")
def lightning(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw and averaged weights. Not to be changed."""
    groups = {"denoiser": small_state(1), "ema_denoiser": small_state(2)}
    return save_lightning(tmp_path_factory.mktemp("ckpt") / "both.ckpt", groups)


def resolved(preset: str, weights: object, ema: str | None = None, **more: Any) -> ResolvedPlan:
    return resolve_plan(PlanOptions(preset, WeightsRequest(str(weights), ema, **more)))


def pixels(found: ResolvedPlan) -> bytes:
    """One batch."""
    sampler = BatchSampler(found.plan, found.materials, torch.device("cpu"))
    return sampler.batch(0).rows.images_NHWC.tobytes()


def test_the_plan_says_which_weights(preset: str, lightning: Path) -> None:
    """auto takes the average; a choice is another plan, and other pixels."""
    plans = {ema: resolved(preset, lightning, ema) for ema in ("auto", "raw", "denoiser", None)}
    assert {ema: found.plan.ema for ema, found in plans.items()} == {
        "auto": "ema_denoiser",
        "raw": "denoiser",
        "denoiser": "denoiser",
        None: "ema_denoiser",
    }
    assert plans["raw"].plan == plans["denoiser"].plan
    assert plans["raw"].plan.plan_id != plans["auto"].plan.plan_id
    assert pixels(plans["raw"]) != pixels(plans["auto"])
    assert plans["raw"].plan.weights_sha256 == hashlib.sha256(lightning.read_bytes()).hexdigest()
    assert plans["raw"].origin == {"weights": "both.ckpt"}


def test_several_averages_are_not_chosen_from(preset: str, tmp_path: Path) -> None:
    averages = {"ema_0.9999": small_state(2), "ema_0.999": small_state(3)}
    path = save_lightning(tmp_path / "w.ckpt", {"model": small_state(1), **averages})
    with pytest.raises(UsageError, match=r"several averages.*--ema with one of ema_0.9999, ema_0"):
        resolved(preset, path)
    assert resolved(preset, path, "0.999").plan.ema == "ema_0.999"
    assert resolved(preset, path, "raw").plan.ema == "model"
    with pytest.raises(UsageError, match=r"no such weights: known: ema_0.9999, ema_0.999, model"):
        resolved(preset, path, "ema_0.99999")


def test_raw_weights_are_not_taken_for_an_average(preset: str, tmp_path: Path) -> None:
    path = save_lightning(tmp_path / "w.ckpt", {"denoiser": small_state(1)})
    with pytest.raises(UsageError, match="no EMA weights; --ema raw takes"):
        resolved(preset, path)
    assert resolved(preset, path, "raw").plan.ema == "denoiser"


def test_every_container_gives_the_same_pixels(
    preset: str, lightning: Path, tmp_path: Path
) -> None:
    """Checkpoint, converted file, diffusers folder, shards with their index: the same bits."""
    expected = pixels(resolved(preset, lightning))
    convert(lightning, "ema_denoiser", tmp_path / "ema.safetensors")
    converted = resolved(preset, tmp_path / "ema.safetensors")
    assert pixels(converted) == expected
    assert converted.plan.ema == "ema_denoiser"

    folder = tmp_path / "export"
    (folder / "transformer").mkdir(parents=True)
    (folder / "transformer" / "config.json").write_text('{"_class_name": "PixNerd"}')
    save_file(small_state(2), folder / "transformer" / "diffusion_pytorch_model.safetensors")
    exported = resolved(preset, folder)
    assert pixels(exported) == expected
    assert exported.plan.ema == UNSTATED

    index = sharded(small_state(2), tmp_path / "shards")
    for path in (index, index.parent):
        assert pixels(resolved(preset, path)) == expected
    assert weights_sha256(index) == weights_sha256(index.parent)


def sharded(state: dict[str, Tensor], folder: Path) -> Path:
    """Two shards and their index, as diffusers writes them."""
    folder.mkdir()
    weight_map = {}
    for part in range(2):
        name = f"diffusion_pytorch_model-{part}.safetensors"
        held = dict(list(state.items())[part::2])
        save_file(held, folder / name)
        weight_map |= dict.fromkeys(held, name)
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    return index


def test_an_index_stands_for_the_bytes_of_its_shards(preset: str, tmp_path: Path) -> None:
    """Other values under the same index are another plan."""
    first = resolved(preset, sharded(small_state(2), tmp_path / "a")).plan
    second = resolved(preset, sharded(small_state(3), tmp_path / "b")).plan
    assert first.plan_id != second.plan_id


def test_an_index_may_be_a_link(preset: str, tmp_path: Path) -> None:
    """A hub's cache links every name of a snapshot to a file that is called as its digest is."""
    index = sharded(small_state(2), tmp_path / "a")
    (tmp_path / "snapshot").mkdir()
    for number, path in enumerate(sorted(index.parent.iterdir())):
        (tmp_path / "snapshot" / path.name).symlink_to(path.rename(path.with_name(f"{number}")))
    link = tmp_path / "snapshot" / index.name
    given = resolved(preset, link)
    content = {"extends": preset, "name": "linked", "weights": {"file": f"snapshot/{link.name}"}}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "over.yaml").write_text("{extends: base.yaml, name: over}")
    named = resolve_plan(PlanOptions(str(tmp_path / "over.yaml")))
    assert named.plan.weights_sha256 == given.plan.weights_sha256


def test_a_converted_file_keeps_its_name(preset: str, lightning: Path, tmp_path: Path) -> None:
    """Raw weights stay raw weights: they are taken when that is said."""
    path = tmp_path / "raw.safetensors"
    convert(lightning, "denoiser", path)
    with pytest.raises(UsageError, match="no EMA weights; --ema raw"):
        resolved(preset, path)
    raw = resolved(preset, path, "raw")
    assert raw.plan.ema == "denoiser"
    assert pixels(raw) == pixels(resolved(preset, lightning, "raw"))
    with pytest.raises(UsageError, match="no such weights"):
        resolved(preset, path, "ema_denoiser")


def test_a_header_cannot_name_weights_as_it_likes(preset: str, tmp_path: Path) -> None:
    """`random:0` in the plan would keep the run from being scored."""
    for said in ("random:0", "random:ema"):
        save_file(small_state(2), tmp_path / "w.safetensors", metadata={"group": said})
        plan = resolved(preset, tmp_path / "w.safetensors").plan
        assert plan.ema == UNSTATED
        assert not plan.has_random_weights


@pytest.mark.parametrize("called", ["swa_model", "model-ema", "2nd.ema", "ema:0.9"])
def test_a_converted_average_is_never_the_raw_weights(
    preset: str, called: str, tmp_path: Path
) -> None:
    torch.save({"state_dict": small_state(1), called: small_state(2)}, tmp_path / "both.ckpt")
    convert(tmp_path / "both.ckpt", called, tmp_path / "w.safetensors")
    assert resolved(preset, tmp_path / "w.safetensors", called).plan.ema == called
    with pytest.raises(UsageError, match="averaged weights only"):
        resolved(preset, tmp_path / "w.safetensors", "raw")


def hollow(path: Path, shapes: dict[str, list[int]]) -> Path:
    """A safetensors file of full size whose values were never written; it takes no disk."""
    header: dict[str, Any] = {}
    end = 0
    for key, shape in shapes.items():
        start, end = end, end + 4 * torch.Size(shape).numel()
        header[key] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return path


@pytest.mark.parametrize(
    ("asked", "held", "words"),
    [
        ("pixnerd-xl-256", "pixelgen/keys_pixelgen_xl_16_256", "look like pixelgen-class"),
        ("pixelgen-xl-256", "pixnerd/keys_c2i_xl_256", "look like pixnerd-class"),
        ("pixnerd-l-256", "pixnerd/keys_c2i_xl_256", "pixnerd-xl-256"),
    ],
)
def test_weights_of_another_model_are_named_before_a_byte_of_them_is_read(
    asked: str, held: str, words: str, tmp_path: Path
) -> None:
    """Full-size files that would take long to hash: refused by names and shapes alone."""
    shapes = json.loads((KEYS / f"{held}.json").read_text())
    path = hollow(tmp_path / "w.safetensors", shapes)
    with pytest.raises(DataError, match="do not fit the model") as caught:
        resolved(asked, path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_that_cannot_be_read(preset: str, lightning: Path, tmp_path: Path) -> None:
    """Missing, cut short, or with objects that would need code: one line before any work."""
    with pytest.raises(DataError, match=r"none\.ckpt does not exist"):
        resolved(preset, tmp_path / "none.ckpt")
    cut = tmp_path / "cut.ckpt"
    cut.write_bytes(lightning.read_bytes()[:-3000])
    with pytest.raises(DataError, match=r"cut\.ckpt"):
        resolved(preset, cut)
    torch.save({"model": small_state(1), "args": argparse.Namespace(lr=1)}, tmp_path / "own.pth")
    with pytest.raises(DataError, match=r"Namespace.*evalsuite convert"):
        resolved(preset, tmp_path / "own.pth")


def test_weights_that_changed_since_the_plan(preset: str, lightning: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(lightning, tmp_path / "w.ckpt"))
    found = resolved(preset, copy)
    save_lightning(copy, {"denoiser": small_state(1), "ema_denoiser": small_state(3)})
    with pytest.raises(DataError, match="not the plan's"):
        pixels(found)
    copy.unlink()
    with pytest.raises(DataError, match="do not exist on this machine"):
        pixels(found)


def test_values_that_are_no_numbers(preset: str, tmp_path: Path) -> None:
    state = small_state(2)
    state["blocks.0.attn.qkv.weight"][3, 1] = float("nan")
    found = resolved(preset, save_lightning(tmp_path / "w.ckpt", {"ema_denoiser": state}))
    with pytest.raises(DataError, match=r"w\.ckpt: tensor blocks\.0\.attn\.qkv\.weight holds NaN"):
        pixels(found)


def test_random_weights(preset: str) -> None:
    """Decided by their seed, marked in the plan, without an EMA to choose."""
    first, same, other = (resolved(preset, f"random:{seed}") for seed in ("1", "01", "2"))
    assert first.plan == same.plan
    assert first.plan.plan_id != other.plan.plan_id
    assert first.plan.has_random_weights
    assert pixels(first) == pixels(same) != pixels(other)
    for given, ema in (("random:", None), ("random:x", None), ("random:4294967296", None)):
        with pytest.raises(UsageError, match="random:SEED"):
            resolved(preset, given, ema)
    with pytest.raises(UsageError, match="--ema is for checkpoints"):
        resolved(preset, "random:1", "raw")


PROBE = """
import sys
from pathlib import Path
from evalsuite.artifacts.digests import known_sha256
print(known_sha256(Path(sys.argv[1])))
for line in Path("/proc/self/io").read_text().splitlines():
    if line.startswith("rchar"):
        print(line.split()[1])
"""


def test_a_node_reads_weights_once_to_hash_them(tmp_path: Path) -> None:
    """Four processes at the same time: together they read one file's bytes, and agree."""
    path, num_bytes = tmp_path / "large.safetensors", 2**26
    path.write_bytes(bytes(range(256)) * (num_bytes // 256))
    env = environment(private=True, EVALSUITE_CACHE=str(tmp_path / "cache"))
    command = [sys.executable, "-c", PROBE, str(path)]
    processes = [
        subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    said = [process.communicate()[0].split() for process in processes]
    assert {digest for digest, _ in said} == {hashlib.sha256(path.read_bytes()).hexdigest()}
    read = sum(int(count) for _, count in said)
    assert num_bytes <= read < 2 * num_bytes


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lightning: Path) -> Iterator[Any]:
    """A hub with the checkpoint in two commits: `main` is the first, and may move."""
    sys.path.insert(0, str(REPOSITORY / "tests" / "artifacts"))
    from hub_server import FIRST, SECOND, Hub, serving

    other = save_lightning(tmp_path / "other.ckpt", {"ema_denoiser": small_state(5)})
    files = {(FIRST, "model.ckpt"): lightning.read_bytes()}
    files[SECOND, "model.ckpt"] = other.read_bytes()
    for shard in sharded(small_state(2), tmp_path / "shards").parent.iterdir():
        files[FIRST, f"transformer/{shard.name}"] = shard.read_bytes()
    with serving(Hub(files=files)) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.endpoint)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        yield served


def test_other_bytes_than_the_stated_ones_stay_a_corruption(hub: Any) -> None:
    """What a preset says of a place is for a file that is not there."""
    request, note = WeightsRequest(), "it may be written otherwise"
    with pytest.raises(CorruptionError) as caught:
        from_hub(request, hub.repo, None, "model.ckpt", "0" * 64, note)
    assert note not in str(caught.value)
    with pytest.raises(DataError, match=rf"no such file.*\({note}\)$"):
        from_hub(request, hub.repo, None, "other.ckpt", None, note)


def test_weights_of_a_hub(preset: str, lightning: Path, hub: Any) -> None:
    """The same plan as from the file; where they came from is recorded by commit."""
    found = resolved(preset, f"hub:{hub.repo}:model.ckpt")
    assert found.plan == resolved(preset, lightning).plan
    assert found.origin == {
        "weights": "model.ckpt",
        "repo": hub.repo,
        "revision": "1" * 40,
        "filename": "model.ckpt",
        "verified": "hub",
    }
    hub.branches["main"] = "2" * 40
    assert resolved(preset, f"hub:{hub.repo}:model.ckpt").plan != found.plan
    asked = resolved(preset, f"hub:{hub.repo}@{'1' * 40}:model.ckpt")
    assert asked.plan == found.plan
    index = "transformer/diffusion_pytorch_model.safetensors.index.json"
    assert pixels(resolved(preset, f"hub:{hub.repo}@{'1' * 40}:{index}")) == pixels(found)
    for name in ("hub:model.ckpt", f"hub:{hub.repo}", f"hub:{hub.repo}:"):
        with pytest.raises(UsageError, match="is not hub:OWNER/NAME"):
            resolved(preset, name)


def test_a_lock_keeps_to_what_was_fetched(preset: str, hub: Any) -> None:
    """The branch has moved since; offline, too. Another revision than the locked one is refused."""
    name = f"hub:{hub.repo}:model.ckpt"
    found = resolved(preset, name)
    lock = Lock(model="small", items=(locked(found.plan, hub.repo),))
    hub.branches["main"] = "2" * 40
    again = resolved(preset, name, lock=lock)
    assert again.plan == found.plan
    hub.requests.clear()
    assert resolved(preset, name, lock=lock, offline=True).plan == found.plan
    assert hub.requests == []
    moved = resolved(preset, name)
    with pytest.raises(DataError, match=r"weights model\.ckpt .* is not what the lock file holds"):
        lock.check((locked(moved.plan, hub.repo),))
    with pytest.raises(UsageError, match=r"@v2: the lock file holds revision the newest of it"):
        resolved(preset, f"hub:{hub.repo}@v2:model.ckpt", lock=lock)
    with pytest.raises(UsageError, match="the lock file holds nothing of it"):
        resolved(preset, f"hub:{hub.repo}:another.ckpt", lock=lock)
    with pytest.raises(EnvironmentProblem, match="--offline looks nothing up"):
        resolved(preset, f"hub:{hub.repo}@{'3' * 40}:model.ckpt", offline=True)


def locked(plan: Plan, repo: str) -> LockedItem:
    return LockedItem(
        what="weights",
        name="model.ckpt",
        sha256=plan.weights_sha256,
        repo=repo,
        revision="1" * 40,
        filename="model.ckpt",
    )


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        ("{", CorruptionError, "no JSON"),
        ("[]", CorruptionError, "is not a lock file"),
        ('{"model": "m", "item": []}', CorruptionError, "unknown key 'item'"),
        ('{"schema_version": 9, "new": 1}', UsageError, "of version 9: fetch again"),
        (None, UsageError, "`evalsuite fetch` writes one"),
    ],
)
def test_lock_files_that_cannot_be_used(
    content: str | None, error: type[Exception], words: str, tmp_path: Path
) -> None:
    path = tmp_path / "evalsuite.lock.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(error, match=words):
        read_lock(path)


def test_a_lock_is_read_as_it_was_written(tmp_path: Path) -> None:
    item = LockedItem(what="weights", name="w", sha256="0" * 64, repo="a/b", revision="1" * 40)
    lock = Lock(model="m", items=(item,))
    write_lock(tmp_path / "lock.json", lock)
    assert read_lock(tmp_path / "lock.json") == lock

"""Each distinct prompt is encoded once, by one process, and read back bit for bit."""

import gc
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from store_server import s3_server, speaking_to
from tiny_encoders import PROMPTS, D, T, gemma_spec, qwen_spec, save_qwen

from evalsuite.artifacts.storage import StoreUrl
from evalsuite.conditioning.encoder_files import encoder_digest
from evalsuite.conditioning.prompts import Prompt
from evalsuite.conditioning.text_cache import TextCache
from evalsuite.conditioning.text_encoder import load_encoder
from evalsuite.config import TextEncoderSpec
from evalsuite.errors import CorruptionError, DataError

CPU = torch.device("cpu")
ASKED = [Prompt(text) for text in PROMPTS] + [Prompt("", negative=True)]
NOWHERE = Path("no such encoder")
WORKER = """
import hashlib, json, sys, torch
from pathlib import Path
from evalsuite.conditioning.prompts import Prompt
from evalsuite.conditioning.text_cache import TextCache
from evalsuite.config import TextEncoderSpec
torch.set_num_threads(1)
root, folder, spec, digest, count = sys.argv[1:]
cache = TextCache(Path(root), TextEncoderSpec.model_validate_json(spec), digest, "one machine")
prompts = [Prompt(f"cat {i}") for i in range(int(count))]
print("ready", flush=True)
sys.stdin.readline()
cache.prepare(prompts, Path(folder), torch.device("cpu"))
bits = b"".join(f.view(torch.uint8).numpy().tobytes() for f in cache.read(prompts))
print(json.dumps(["transformers" in sys.modules, hashlib.sha256(bits).hexdigest()]))
"""


def cache_in(root: Path, folder: Path, spec: TextEncoderSpec | None = None) -> TextCache:
    return TextCache(root, spec or qwen_spec(), encoder_digest(folder), "one machine")


def features_for(
    cache: TextCache, prompts: Sequence[Prompt], folder: Path, device: torch.device
) -> dict[Prompt, torch.Tensor]:
    """All of some prompts, encoded where they are not there."""
    cache.prepare(prompts, folder, device)
    return dict(zip(prompts, cache.read(prompts), strict=True))


def files(root: Path) -> list[Path]:
    return sorted(root.rglob("*.safetensors"))


def start_worker(cache: TextCache, folder: Path, count: int) -> subprocess.Popen[str]:
    """A process that waits for a line before it asks for `count` prompts."""
    arguments = [cache.root, folder, cache.spec.model_dump_json(), cache.digest, count]
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def release(worker: subprocess.Popen[str]) -> None:
    """Let it ask for its prompts."""
    worker.stdin.write("go\n")
    worker.stdin.flush()


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_features_are_the_encoders_bit_for_bit(
    qwen_folder: Path, tmp_path: Path, dtype: str
) -> None:
    """As computed, and again as read."""
    spec = qwen_spec(dtype=dtype)
    expected = load_encoder(spec, qwen_folder, CPU).encode(PROMPTS)
    for _ in range(2):
        found = features_for(cache_in(tmp_path, qwen_folder, spec), ASKED, qwen_folder, CPU)
        assert list(found) == ASKED
        for prompt, row in zip(ASKED, expected, strict=False):
            assert torch.equal(found[prompt], row)
            assert found[prompt].dtype == getattr(torch, dtype)
            assert found[prompt].shape == (T, D)


def test_the_encoder_is_read_only_when_something_is_missing(
    qwen_folder: Path, tmp_path: Path
) -> None:
    cache = cache_in(tmp_path, qwen_folder)
    features_for(cache, ASKED, qwen_folder, CPU)
    assert features_for(cache, ASKED[::-1], NOWHERE, CPU).keys() == set(ASKED)
    with pytest.raises(DataError, match="no text encoder"):
        features_for(cache, [*ASKED, Prompt("another")], NOWHERE, CPU)


def test_a_run_on_an_object_store_keeps_features_there(
    qwen_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit; the lock is of this machine, as a store has none."""
    monkeypatch.setenv("EVALSUITE_CACHE", str(tmp_path / "cache"))
    here = features_for(cache_in(tmp_path / "run", qwen_folder), ASKED, qwen_folder, CPU)
    with s3_server() as server, speaking_to(server.url):
        bucket = server.new_bucket()
        place = StoreUrl("s3", bucket, "run/conditions")
        cache = replace(cache_in(tmp_path, qwen_folder), root=place)
        for folder in (qwen_folder, NOWHERE):
            found = features_for(cache, ASKED, folder, CPU)
            assert all(torch.equal(found[prompt], here[prompt]) for prompt in ASKED)
        assert len(server.keys(bucket)) == len(files(tmp_path / "run"))
        server.raw.put_object(Bucket=bucket, Key=server.keys(bucket)[0], Body=b"cut")
        with pytest.raises(CorruptionError, match="s3://"):
            features_for(cache, ASKED, NOWHERE, CPU)


def test_the_encoder_is_gone_afterwards(qwen_folder: Path, tmp_path: Path) -> None:
    """No network of its kind is alive, as it is while one is held."""
    from transformers import Qwen3Model

    def alive() -> int:
        gc.collect()
        return sum(type(thing) is Qwen3Model for thing in gc.get_objects())

    before = alive()
    held = load_encoder(qwen_spec(), qwen_folder, CPU)
    assert alive() == before + 1
    del held
    features_for(cache_in(tmp_path, qwen_folder), ASKED, qwen_folder, CPU)
    assert alive() == before


def test_sides_share_a_file_unless_an_instruction_parts_them(
    qwen_folder: Path, gemma_folder: Path, tmp_path: Path
) -> None:
    both = [Prompt("a cat"), Prompt("a cat", negative=True)]
    for folder, spec, count in ((qwen_folder, qwen_spec(), 1), (gemma_folder, gemma_spec(), 2)):
        root = tmp_path / spec.kind
        found = features_for(cache_in(root, folder, spec), both, folder, CPU)
        assert len(files(root)) == count
        assert torch.equal(*found.values()) == (count == 1)


@pytest.mark.parametrize(
    "change",
    [
        {"max_length": T + 1},
        {"dtype": "bfloat16"},
        {"attention": "eager"},
        {"empty_prompt": "masked"},
        {"instruction": ("say",)},
    ],
)
def test_every_rule_of_the_spec_names_other_files(
    qwen_folder: Path, tmp_path: Path, change: dict[str, object]
) -> None:
    for spec in (qwen_spec(), qwen_spec(**change)):
        features_for(cache_in(tmp_path, qwen_folder, spec), [Prompt("a cat")], qwen_folder, CPU)
    assert len(files(tmp_path)) == 2


def test_another_machine_names_other_files_and_another_place_does_not(
    qwen_folder: Path, tmp_path: Path
) -> None:
    cache = cache_in(tmp_path, qwen_folder)
    moved = replace(cache, spec=qwen_spec(repo="some/mirror", revision="abc"))
    for each, count in ((cache, 1), (moved, 1), (replace(cache, numerics_id="another"), 2)):
        features_for(each, [Prompt("a cat")], qwen_folder, CPU)
        assert len(files(tmp_path)) == count


@pytest.mark.parametrize("damage", ["bit", "truncated"])
def test_a_damaged_file_is_named(qwen_folder: Path, tmp_path: Path, damage: str) -> None:
    cache = cache_in(tmp_path, qwen_folder)
    features_for(cache, [Prompt("a cat")], qwen_folder, CPU)
    (path,) = files(tmp_path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content if damage == "bit" else content[:-1])
    with pytest.raises(CorruptionError, match=f"{path.name} is corrupted"):
        features_for(cache, [Prompt("a cat")], qwen_folder, CPU)


def test_an_encoder_with_other_bytes_is_refused(tmp_path: Path) -> None:
    folder = save_qwen(tmp_path / "encoder")
    cache = cache_in(tmp_path / "cache", folder)
    path = folder / "tokenizer_config.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(CorruptionError, match="other bytes"):
        features_for(cache, [Prompt("a cat")], folder, CPU)


def test_one_process_encodes_and_another_takes_over_when_it_is_killed(
    qwen_folder: Path, tmp_path: Path
) -> None:
    """What the killed one finished stays; of the two that waited only one loads the encoder."""
    cache, count = cache_in(tmp_path, qwen_folder), 200
    workers = [start_worker(cache, qwen_folder, count) for _ in range(3)]
    assert [worker.stdout.readline() for worker in workers] == ["ready\n"] * 3
    first, *others = workers
    release(first)
    deadline = time.monotonic() + 120
    while not files(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.002)
    for worker in others:
        release(worker)
    first.kill()
    first.communicate()
    finished = {path: path.stat().st_mtime_ns for path in files(tmp_path)}
    assert 0 < len(finished) < count
    answers = [json.loads(worker.communicate(timeout=120)[0]) for worker in others]
    assert sorted(encoded for encoded, _ in answers) == [False, True]
    assert answers[0][1] == answers[1][1]
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert len(files(tmp_path)) == count

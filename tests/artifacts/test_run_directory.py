"""A run directory: one plan, a manifest that nobody edits, gaps by name, a card for `datasets`."""

import hashlib
import io
import itertools
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from artifact_builder import files_below, make_manifest, make_plan, make_receipt, pictures
from hypothesis import given
from hypothesis import strategies as st

from evalsuite.artifacts.features import FeatureTable, encode_features
from evalsuite.artifacts.images import ImageRows, Keep, ParquetImageWriter, pixel_sha256
from evalsuite.artifacts.manifest import MANIFEST_SCHEMA
from evalsuite.artifacts.plan_fields import differences
from evalsuite.artifacts.receipts import (
    Receipt,
    ReceiptFile,
    commit_receipt,
    digest_of_pixels,
    disjoint,
    range_name,
    receipt_name,
)
from evalsuite.artifacts.run_card import write_run_card
from evalsuite.artifacts.run_directory import IMAGES, PIXELS, RunDirectory, feature_stage
from evalsuite.artifacts.storage import HashingWriter
from evalsuite.errors import (
    CorruptionError,
    DataError,
    EvalsuiteError,
    IncompleteError,
    StorageError,
    UsageError,
)

PICTURES = pictures(64)


def add_images(
    run: RunDirectory, start: int, stop: int, keep: Keep = "all", stage: str = IMAGES
) -> Receipt:
    """A committed shard of real images."""
    buffer = io.BytesIO()
    writer = ParquetImageWriter(HashingWriter(buffer, Path("memory")), keep, run.plan)
    images = PICTURES[start:stop]
    hashes = [pixel_sha256(image) for image in images]
    indices = range(start, stop)
    writer.write(
        ImageRows(start, [100 + i for i in indices], [i % 3 for i in indices], images), hashes
    )
    writer.close()
    receipt = make_receipt(
        start,
        stop,
        stage=stage,
        content=buffer.getvalue(),
        kept=keep,
        pixel_sha256=hashes if stage == IMAGES else (),
        pixels_digest=digest_of_pixels(hashes),
    )
    commit_with_data(run, receipt, buffer.getvalue())
    return receipt


def commit_with_data(run: RunDirectory, receipt: Receipt, content: bytes) -> None:
    """Data first, then the receipt."""
    with run.storage.create(receipt.files[0].path) as target:
        target.write(content)
    assert commit_receipt(run.storage, receipt)


def add_features(
    run: RunDirectory, start: int, stop: int, told: tuple[int, int] | None = None
) -> None:
    """A committed feature shard; `told` is the range that its receipt names."""
    pool = np.arange(start, stop, dtype=np.float32)[:, None]
    content = encode_features(FeatureTable(start, pool, None, None))
    low, high = told or (start, stop)
    path = f"features/e/{range_name(low, high)}-a0.safetensors"
    file = ReceiptFile(
        path=path, num_bytes=len(content), sha256=hashlib.sha256(content).hexdigest()
    )
    receipt = make_receipt(low, high, stage=feature_stage("e"), kept=None, files=(file,))
    commit_with_data(run, receipt, content)


def test_a_run_opens_as_it_was_made(run: RunDirectory) -> None:
    again = RunDirectory.create_or_open(run.root, make_manifest(make_plan(), created_at="later"))
    assert again.manifest == run.manifest == RunDirectory.open(run.root).manifest
    assert again.plan == make_plan()
    assert files_below(run.root) == ["manifest.json"]


def test_another_plan_is_refused_naming_what_differs(run: RunDirectory) -> None:
    other = make_plan(
        first_seed=200, sampling={"solver": "euler", "num_steps": 3, "guidance_scale": 1.5}
    )
    with pytest.raises(UsageError) as caught:
        RunDirectory.create_or_open(run.root, make_manifest(other))
    text = str(caught.value)
    assert "first_seed is 100 there, 200 was asked" in text
    assert "sampling.num_steps is 2 there, 3 was asked" in text
    assert "batch_size" not in text
    assert "give another --output" in text
    assert files_below(run.root) == ["manifest.json"]


def test_differences_go_into_the_tree() -> None:
    ours = make_plan()
    assert differences(ours, ours) == []
    listed = differences(ours, make_plan(labels={"rule": "random", "seed": 5}, network={"a": 1}))
    assert [line.partition(" is ")[0] for line in listed] == [
        "labels.rule",
        "labels.seed",
        "network.a",
        "network.patch_size",
    ]


def test_a_folder_with_other_files_is_not_taken(tmp_path: Path) -> None:
    """Nothing of a person's is mixed with a run."""
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="holds other files and no run"):
        RunDirectory.create_or_open(tmp_path, make_manifest(make_plan()))
    assert files_below(tmp_path) == ["thesis.tex"]


def test_a_place_without_a_run(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError, match=r"has no manifest\.json"):
            RunDirectory.open(root)
    (tmp_path / "file").write_text("")
    with pytest.raises((UsageError, StorageError)):
        RunDirectory.open(tmp_path / "file")


def edit_manifest(run: RunDirectory, **changes: Any) -> None:
    """Change the manifest on the disk."""
    path = run.root / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_newer_manifest_asks_for_an_upgrade(run: RunDirectory) -> None:
    """Whatever else it holds that this version does not know."""
    edit_manifest(run, schema_version=MANIFEST_SCHEMA + 1, something_new=1)
    with pytest.raises(DataError, match=f"schema version {MANIFEST_SCHEMA + 1}.*upgrade evalsuite"):
        RunDirectory.open(run.root)


def test_an_edited_manifest_is_refused(run: RunDirectory) -> None:
    """Its plan would make other pixels under the same plan_id."""
    plan = json.loads((run.root / "manifest.json").read_text())["plan"]
    edit_manifest(run, plan=plan | {"first_seed": 101})
    with pytest.raises(CorruptionError, match="does not hash to its plan_id; it was edited"):
        RunDirectory.open(run.root)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[]", b"null", b"{}", b'{"schema_version": "x"}', b'"text"'],
)
def test_a_manifest_that_cannot_be_read(run: RunDirectory, content: bytes) -> None:
    (run.root / "manifest.json").write_bytes(content)
    with pytest.raises(EvalsuiteError) as caught:
        RunDirectory.open(run.root)
    assert "manifest.json" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3


def test_features_of_a_prefix_come_from_shards_of_any_size(run: RunDirectory) -> None:
    for low, high in ((4, 10), (0, 4), (10, 20)):
        add_features(run, low, high)
    table = run.read_features("e", 13)
    np.testing.assert_array_equal(table.pool_ND[:, 0], np.arange(13))
    assert run.feature_stages() == ["features/e"]


def test_gaps_are_listed(run: RunDirectory) -> None:
    """By sample, first and last of each."""
    add_features(run, 0, 4)
    add_features(run, 8, 12)
    with pytest.raises(IncompleteError, match=r"features of samples 4\.\.7, 12\.\.19 are missing"):
        run.read_features("e", 20)
    with pytest.raises(IncompleteError, match=r"samples 0\.\.3 are missing"):
        run.read_features("unknown", 4)


def test_a_feature_file_that_holds_other_samples_than_its_receipt(run: RunDirectory) -> None:
    """Each file is whole by itself, but exchanged."""
    add_features(run, 4, 8, told=(0, 4))
    with pytest.raises(CorruptionError, match="other samples than its receipt names"):
        run.read_features("e", 4)


def test_a_replaced_feature_file_is_a_corruption(run: RunDirectory) -> None:
    """Even if it is a good feature shard (here: with NaN)."""
    add_features(run, 0, 4)
    path = next((run.root / "features" / "e").iterdir())
    path.write_bytes(
        encode_features(FeatureTable(0, np.full((4, 1), np.nan, np.float32), None, None))
    )
    with pytest.raises(CorruptionError, match="corrupted"):
        run.read_features("e", 4)


def test_images_of_a_range(run: RunDirectory) -> None:
    add_images(run, 0, 8)
    add_images(run, 8, 12)
    found = list(run.read_images(3, 10))
    assert [index for index, _ in found] == list(range(3, 10))
    for index, image in found:
        np.testing.assert_array_equal(image, PICTURES[index])


def test_pixels_that_were_not_kept_are_missing_until_a_pixels_shard_has_them(
    run: RunDirectory,
) -> None:
    add_images(run, 0, 8, keep="none")
    with pytest.raises(IncompleteError, match=r"stored pixels of samples 0\.\.7"):
        list(run.read_images(0, 8))
    assert run.kept_indices(8) == []
    add_images(run, 0, 8, stage=PIXELS)
    assert [index for index, _ in run.read_images(0, 8)] == list(range(8))
    assert [index for index, _ in run.find_images(range(5))] == list(range(5))


def test_the_grid_is_given_once_and_in_order(run: RunDirectory) -> None:
    """Three classes keep 24; overlapping shards do not repeat one."""
    add_images(run, 0, 20, keep="grid")
    add_images(run, 16, 40, keep="grid")
    assert run.kept_indices(64) == list(range(24))
    assert [index for index, _ in run.find_images(range(18, 30))] == list(range(18, 24))


def test_receipts_of_another_plan_are_refused(run: RunDirectory) -> None:
    receipt = make_receipt(0, 4, plan_id="cd" * 32)
    run.storage.commit(receipt.name, json.dumps(receipt.model_dump(mode="json")).encode())
    with pytest.raises(CorruptionError, match="another plan"):
        run.receipts(IMAGES)


def test_receipts_that_point_out_of_the_run_read_nothing(run: RunDirectory) -> None:
    """A run may come from a stranger."""
    add_images(run, 0, 4)
    receipt = run.receipts(IMAGES)[0]
    evil = receipt.files[0].model_copy(update={"path": "../../etc/passwd"})
    run.storage.replace(
        receipt.name,
        json.dumps(receipt.model_copy(update={"files": (evil,)}).model_dump(mode="json")).encode(),
    )
    with pytest.raises(CorruptionError, match="would leave the run directory"):
        list(run.read_images(0, 4))


def test_json_folders(run: RunDirectory) -> None:
    """Results by name; a broken one is named."""
    run.write_json("results/b.json", {"b": 1})
    run.write_json("results/a.json", {"a": 1})
    assert run.read_json_folder("results") == [{"a": 1}, {"b": 1}]
    assert run.read_json_folder("attempts") == []
    for bad in ("{", "[" * 99999, '{"a": ' + "1" * 5000 + "}", '{"a": NaN}'):
        (run.root / "results" / "c.json").write_text(bad)
        with pytest.raises(CorruptionError, match=r"results/c\.json is not JSON"):
            run.read_json_folder("results")


def test_the_card_makes_the_run_a_data_set(run: RunDirectory, tmp_path: Path) -> None:
    """`datasets.load_dataset(RUN)` gives every committed sample once, and no garbage."""
    add_images(run, 0, 8)
    add_images(run, 8, 16, keep="none")
    add_images(run, 8, 16, stage=PIXELS)
    garbage = run.root / "images" / f"{range_name(0, 8)}-killed.parquet"
    garbage.write_bytes(b"half a shard")
    write_run_card(run, "a sampler")
    loaded = datasets.load_dataset(str(run.root), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded["sample_index"][:] == list(range(16))
    for row, image in zip(loaded, PICTURES, strict=False):
        np.testing.assert_array_equal(np.asarray(row["image"]), image)
    assert "16 images" in (run.root / "README.md").read_text()


def opened(run: RunDirectory, cache: Path) -> list[int]:
    """What `datasets` opens of a run with its card."""
    write_run_card(run, "a sampler")
    loaded = datasets.load_dataset(str(run.root), split="train", cache_dir=str(cache))
    return list(loaded["sample_index"])


def test_the_card_lists_shards_that_overlap_without_a_sample_twice(
    run: RunDirectory, tmp_path: Path
) -> None:
    """Two drivers with shards of two sizes: those are listed that hold most; a rest is owned to."""
    for start, stop in [(0, 4), (0, 8), (4, 12)]:
        add_images(run, start, stop)
    assert opened(run, tmp_path / "a") == list(range(12))
    assert "load_dataset` opens" not in (run.root / "README.md").read_text()
    add_images(run, 8, 16)
    assert opened(run, tmp_path / "b") == list(range(16))
    add_images(run, 12, 20)
    assert opened(run, tmp_path / "c") == list(range(20))
    run.storage.delete(receipt_name(IMAGES, 0, 4))
    assert opened(run, tmp_path / "d") == list(range(16))
    assert "`load_dataset` opens 16 of them:" in (run.root / "README.md").read_text()


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 6)), max_size=7))
def test_disjoint_receipts_hold_as_many_samples_as_can_be(ranges: list[tuple[int, int]]) -> None:
    shards = [make_receipt(low, low + length) for low, length in ranges]
    chosen = disjoint(shards)
    bounds = [bound for one in chosen for bound in (one.start, one.stop)]
    assert bounds == sorted(bounds)
    most = 0
    for count in range(len(shards) + 1):
        for some in itertools.combinations(shards, count):
            samples = [i for one in some for i in range(one.start, one.stop)]
            if len(samples) == len(set(samples)):
                most = max(most, len(samples))
    assert sum(one.stop - one.start for one in chosen) == most


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b"{}", b'{"numerics_id": 1}'])
def test_a_damaged_claim_of_numerics_is_said_in_a_line(run: RunDirectory, content: bytes) -> None:
    """Nothing is committed on top of it, whose machine nobody knows."""
    run.storage.replace("numerics.json", content)
    for act in (run.check_numerics, run.claim_numerics):
        with pytest.raises(CorruptionError, match=r"numerics\.json is damaged \(.*\): write"):
            act({"device": "cpu"}, "ab" * 32)
    assert run.storage.read("numerics.json") == content

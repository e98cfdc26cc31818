"""Integrity: a flipped byte is found, taken out and made again; recomputed batches are compared."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from run_maker import (
    BATCH,
    CPU,
    FEATURES,
    SPEC,
    files_below,
    hashes_of,
    make_shard,
    measure,
    new_worker,
    resolved,
)

from evalsuite.artifacts.receipts import Receipt, check_same_pixels, digest_of_pixels, read_receipt
from evalsuite.artifacts.run_directory import IMAGES, PIXELS, RunDirectory
from evalsuite.artifacts.verified import FileChecker
from evalsuite.errors import CorruptionError, IncompleteError
from evalsuite.pipeline.coverage import Demand, missing_ranges
from evalsuite.pipeline.evaluation import score_run
from evalsuite.pipeline.generation import BatchSampler
from evalsuite.pipeline.integrity import (
    check_batch,
    choose_batches,
    find_faults,
    foreign_files,
    garbage_files,
    stages_of,
)
from evalsuite.pipeline.ranges import ShardTask
from evalsuite.pipeline.repair import REPLACED, keep_as_before, take_out


@pytest.fixture
def run(folder: Path, finished: RunDirectory) -> RunDirectory:
    """A copy of the finished run that may be damaged."""
    shutil.copytree(finished.root, folder)
    return RunDirectory.open(folder)


def flip_byte(path: Path, at: float = 0.5) -> None:
    """Change one bit of one byte."""
    content = bytearray(path.read_bytes())
    content[int(len(content) * at)] ^= 1
    path.write_bytes(content)


def sampler_of(run: RunDirectory) -> BatchSampler:
    """The model of a run."""
    return BatchSampler(run.plan, resolved().materials, CPU)


def test_a_whole_run_has_no_fault(finished: RunDirectory) -> None:
    assert find_faults(finished) == []
    assert garbage_files(finished) == []
    assert stages_of(finished) == [IMAGES, FEATURES]


@pytest.mark.parametrize("at", [0.0, 0.5, 0.9999])
@pytest.mark.parametrize("stage", [IMAGES, FEATURES])
def test_one_flipped_bit_is_found_taken_out_and_made_again(
    run: RunDirectory, finished: RunDirectory, stage: str, at: float
) -> None:
    """Anywhere in a file; the rest stays, and what is made again is what was."""
    receipt = run.receipts(stage)[1]
    flip_byte(run.root / receipt.files[0].path, at)
    (fault,) = find_faults(run)
    assert fault.receipt == receipt
    assert receipt.files[0].path in fault.text
    assert "SHA-256 differs" in fault.text
    assert take_out(run, [fault]) == [receipt]
    assert find_faults(run) == []
    assert garbage_files(run) == []
    demand = Demand(60, None, "all", (SPEC,))
    assert missing_ranges(run, demand) == [(20, 40)]
    make_shard(new_worker(run), 20, 40, [stage])
    assert missing_ranges(run, demand) == []
    assert hashes_of(run, 60) == hashes_of(finished, 60)
    check_same_pixels(receipt, run.receipts(stage)[1])
    again = run.receipts(stage)[1]
    assert [f.sha256 for f in again.files] == [f.sha256 for f in receipt.files]


def test_a_file_that_is_missing_shorter_or_longer(run: RunDirectory) -> None:
    """Each with its own sentence."""
    first, second, third = (run.root / r.files[0].path for r in run.receipts(IMAGES))
    first.unlink()
    second.write_bytes(second.read_bytes()[:-1])
    third.write_bytes(third.read_bytes() + b"x")
    texts = [fault.text for fault in find_faults(run)]
    assert len(texts) == 3
    assert "is missing" in texts[0]
    assert "bytes, not" in texts[1]
    assert "bytes, not" in texts[2]


def test_unreadable_receipts_are_faults_and_go(run: RunDirectory) -> None:
    """Of such a receipt nothing is known, so its data files are garbage from then on."""
    broken, foreign = run.receipts(IMAGES)[:2]
    (run.root / broken.name).write_text("{")
    other = foreign.model_copy(update={"plan_id": "ab" * 32})
    (run.root / foreign.name).write_text(other.model_dump_json())
    faults = find_faults(run)
    assert faults[0].text.endswith(f"{broken.name} is not JSON"), "advice of another command"
    assert "belongs to another plan" in faults[1].text
    assert take_out(run, faults) == []
    assert find_faults(run) == []
    assert [r.start for r in run.receipts(IMAGES)] == [40]
    assert garbage_files(run) == [broken.files[0].path]


def test_a_shard_that_is_made_again_at_that_moment_is_left_alone(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another driver commits it between this one's look at the receipt and its removal."""
    receipt = run.receipts(IMAGES)[0]
    path = run.root / receipt.files[0].path
    flip_byte(path)
    (fault,) = find_faults(run)
    fresh = receipt.model_copy(update={"attempt_id": "another-00001"})

    def read(*place: Any) -> Receipt:
        seen = read_receipt(*place)
        (run.root / fault.receipt_name).write_text(fresh.model_dump_json())
        return seen

    monkeypatch.setattr("evalsuite.pipeline.repair.read_receipt", read)
    assert take_out(run, [fault]) == []
    assert run.receipts(IMAGES)[0] == fresh
    assert path.exists()


@pytest.mark.parametrize("hash_all", [False, True])
def test_a_shard_that_is_made_again_while_files_are_read_is_no_fault(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, hash_all: bool
) -> None:
    """Another driver repairs it after this one's listing: its receipt names another file then."""
    receipt = run.receipts(IMAGES)[0]
    path = run.root / receipt.files[0].path
    sound = path.read_bytes()
    flip_byte(path)
    check = FileChecker.faults

    def repaired_meanwhile(checker: FileChecker, claims: Any) -> Any:
        found = check(checker, claims)
        path.unlink(missing_ok=True)
        name = receipt.files[0].path.replace(receipt.attempt_id, "another-00001")
        (run.root / name).write_bytes(sound)
        file = receipt.files[0].model_copy(update={"path": name})
        again = receipt.model_copy(update={"attempt_id": "another-00001", "files": (file,)})
        run.storage.replace(receipt.name, again.model_dump_json().encode())
        return found

    monkeypatch.setattr(FileChecker, "faults", repaired_meanwhile)
    assert find_faults(run, hash_all=hash_all) == []
    monkeypatch.undo()
    assert find_faults(run, hash_all=True) == []


def test_reading_a_damaged_shard_is_refused(run: RunDirectory) -> None:
    """Even where nobody looked for faults before."""
    flip_byte(run.root / run.receipts(IMAGES)[0].files[0].path)
    with pytest.raises(CorruptionError, match="or `generate` again to repair"):
        list(run.read_images(0, 10))
    flip_byte(run.root / run.receipts(FEATURES)[2].files[0].path)
    assert len(run.read_features(SPEC.extractor_id, 40).pool_ND) == 40
    with pytest.raises(CorruptionError):
        run.read_features(SPEC.extractor_id, 41)


def test_a_missing_receipt_is_missing_samples(run: RunDirectory) -> None:
    """Its file is garbage, however good it is."""
    receipt = run.receipts(FEATURES)[0]
    (run.root / receipt.name).unlink()
    with pytest.raises(IncompleteError, match=r"samples 0\.\.19 are missing"):
        run.read_features(SPEC.extractor_id, 60)
    assert garbage_files(run) == [receipt.files[0].path]
    assert find_faults(run) == []


def test_files_of_killed_attempts_are_garbage(run: RunDirectory) -> None:
    """Of any stage; committed ones are not."""
    before = files_below(run.root)
    extra = [
        "images/0000000000-0000000020-killed.parquet",
        f"{FEATURES}/0000000000-0000000020-killed.safetensors",
    ]
    for name in extra:
        (run.root / name).write_bytes(b"half")
    assert sorted(garbage_files(run)) == sorted(extra)
    assert garbage_files(run, older_than_s=3600) == []
    for name in garbage_files(run):
        run.storage.delete(name)
    assert files_below(run.root) == before


def test_recomputed_batches_are_the_committed_ones(finished: RunDirectory) -> None:
    sampler = sampler_of(finished)
    for batch in (0, 3, 5):
        checked = check_batch(finished, sampler, batch)
        assert (checked.start, checked.stop) == (batch * BATCH, (batch + 1) * BATCH)
        assert checked.differing == ()
        assert checked.same_numerics
        assert checked.max_difference == 0
        assert checked.mean_difference == 0


def test_a_lie_in_a_receipt_is_found_by_recomputing(run: RunDirectory) -> None:
    """Files whose digests fit a receipt can still be other pixels than the plan's."""
    lie = lied(run, digest_too=True)
    run.storage.replace(
        lie.name, lie.model_copy(update={"numerics_id": "0" * 64}).model_dump_json().encode()
    )
    assert ["made of other pixels" in f.text for f in find_faults(run)] == [True]
    sampler = sampler_of(run)
    checked = check_batch(run, sampler, 2)
    assert checked.differing == (24,)
    assert not checked.same_numerics
    assert check_batch(run, sampler, 3).differing == ()


def lied(run: RunDirectory, *, digest_too: bool) -> Receipt:
    """The second receipt of images with a zeroed hash of sample 24, written in its place."""
    receipt = run.receipts(IMAGES)[1]
    changed = (*receipt.pixel_sha256[:4], "0" * 64, *receipt.pixel_sha256[5:])
    digest = digest_of_pixels(changed) if digest_too else receipt.pixels_digest
    lie = receipt.model_copy(update={"pixel_sha256": changed, "pixels_digest": digest})
    run.storage.replace(receipt.name, lie.model_dump_json().encode())
    return lie


@pytest.mark.parametrize("digest_too", [False, True])
def test_damaged_pixel_hashes_are_found_and_the_receipt_goes(
    run: RunDirectory, digest_too: bool
) -> None:
    """It is not set aside, for what it names could never come out again; features stay."""
    lie = lied(run, digest_too=digest_too)
    faults = find_faults(run, hash_all=True)
    assert [fault.receipt_name for fault in faults] == [lie.name]
    assert ("other pixel hashes than" if digest_too else "do not fit") in faults[0].text
    assert take_out(run, faults) == []
    assert run.storage.names(f"replaced/{IMAGES}") == []
    make_shard(new_worker(run), 20, 40, [IMAGES])
    assert find_faults(run, hash_all=True) == []


@pytest.mark.parametrize("named", ["manifest.json", "another shard", "another attempt"])
def test_a_receipt_that_names_files_of_others_takes_none_with_it(
    run: RunDirectory, named: str
) -> None:
    receipt, other = run.receipts(IMAGES)[:2]
    own = receipt.files[0].path
    paths = {
        "manifest.json": "manifest.json",
        "another shard": other.files[0].path,
        "another attempt": own.replace(receipt.attempt_id, "another-00001"),
    }
    path = paths[named]
    if named == "another attempt":
        (run.root / path).write_bytes((run.root / own).read_bytes())
    content = run.storage.read(path)
    entry = {"path": path, "num_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    file = receipt.files[0].model_copy(update=entry)
    bad = receipt.model_copy(update={"files": (file,)})
    run.storage.replace(receipt.name, bad.model_dump_json().encode())
    faults = find_faults(run)
    assert [f.text.partition(": ")[2] for f in faults] == [f"{path} is no file of its attempt"]
    assert take_out(run, faults) == []
    assert run.storage.read(path) == content
    assert not run.storage.exists(receipt.name)
    assert find_faults(run) == []


@pytest.mark.parametrize("stage", [IMAGES, FEATURES])
def test_a_receipt_that_names_no_file_is_damaged(run: RunDirectory, stage: str) -> None:
    """Every shard of every stage has one: without it samples counted that nobody could read."""
    receipt = run.receipts(stage)[0]
    bad = json.loads(run.storage.read(receipt.name)) | {"files": []}
    run.storage.replace(receipt.name, json.dumps(bad).encode())
    (fault,) = find_faults(run)
    assert "files: " in fault.text
    take_out(run, [fault])
    assert not run.storage.exists(receipt.name)
    assert find_faults(run) == []


def test_a_repair_that_was_killed_forgets_nothing(run: RunDirectory) -> None:
    """Who goes on asks for fewer pixels than the shard had kept that the other took out."""
    tasks = [ShardTask(0, 20, (IMAGES,)), ShardTask(40, 60, (IMAGES,))]
    assert keep_as_before(run, tasks, "none") == tasks
    receipt = run.receipts(IMAGES)[0]
    assert (receipt.start, receipt.kept) == (0, "all")
    (run.root / receipt.files[0].path).unlink()
    assert take_out(run, find_faults(run)) == [receipt]
    assert [task.keep for task in keep_as_before(run, tasks, "none")] == ["all", None]
    assert keep_as_before(run, [], "none") == []


def test_what_was_repaired_is_shared_with_others_where_no_image_is_to_be_kept(
    run: RunDirectory,
) -> None:
    """Who only adds features, or keeps every pixel anyway, leaves out what others make."""
    (run.root / run.receipts(IMAGES)[0].files[0].path).unlink()
    take_out(run, find_faults(run))
    images, features = ShardTask(0, 20, (IMAGES,)), ShardTask(0, 20, (FEATURES,))
    assert keep_as_before(run, [features], "none") == [features]
    assert keep_as_before(run, [features, images], "all") == [features, images]
    assert keep_as_before(run, [features, images], "grid") == [
        features,
        images._replace(keep="all"),
    ]


def test_what_was_set_aside_beside_a_repair_is_not_read(run: RunDirectory) -> None:
    """Between two shards that are made again lies one whose old receipt is damaged by now."""
    (run.root / run.receipts(IMAGES)[1].files[0].path).unlink()
    take_out(run, find_faults(run))
    (aside,) = (run.root / REPLACED / IMAGES).iterdir()
    aside.write_text("{")
    tasks = [ShardTask(0, 20, (IMAGES,)), ShardTask(40, 60, (IMAGES,))]
    assert keep_as_before(run, tasks, "none") == tasks
    with pytest.raises(CorruptionError, match=f"{aside.name} is damaged"):
        keep_as_before(run, [ShardTask(10, 30, (IMAGES,))], "none")


@pytest.mark.parametrize("damage", ["cut", "other plan"])
def test_a_receipt_that_was_made_again_meanwhile_stays(run: RunDirectory, damage: str) -> None:
    """Another driver repairs the same shard between our look and our repair."""
    receipt = run.receipts(IMAGES)[0]
    good = run.storage.read(receipt.name)
    other = receipt.model_copy(update={"plan_id": "ab" * 32}).model_dump_json().encode()
    run.storage.replace(receipt.name, other if damage == "other plan" else good[:100])
    (fault,) = find_faults(run)
    run.storage.replace(receipt.name, good)
    assert take_out(run, [fault]) == []
    assert run.storage.read(receipt.name) == good
    assert run.storage.exists(receipt.files[0].path)


def test_foreign_files_are_named_and_left_alone(run: RunDirectory) -> None:
    name = f"receipts/{IMAGES}/notes.json"
    run.storage.replace(name, b"{}")
    assert foreign_files(run) == [name]
    faults = find_faults(run, hash_all=True)
    assert faults == []


def test_damage_outside_of_what_is_asked_stops_nothing(run: RunDirectory) -> None:
    """A cut receipt of samples 40..59 and a missing file: 40 samples are covered and scored."""
    receipt = run.receipts(IMAGES)[2]
    run.storage.replace(receipt.name, b"{")
    run.storage.delete(run.receipts(FEATURES)[2].files[0].path)
    assert missing_ranges(run, Demand(40, None, "all", (SPEC,))) == []
    assert missing_ranges(run, Demand(60, (1, 2), "all", (SPEC,))) == []
    with pytest.raises(CorruptionError, match="which makes its samples anew"):
        missing_ranges(run, Demand(60, (2, 2), "all", (SPEC,)))
    records = score_run(run, measure(metrics=["fid"]), 40)
    assert [record.protocol.num_samples for record in records] == [40]


def test_differences_are_measured_in_grey_levels(run: RunDirectory) -> None:
    """A sampler of a slightly other plan stands for a machine that computes otherwise."""
    other = resolved(sampling={"guidance_scale": 1.51}).plan
    sampler = BatchSampler(other, resolved().materials, CPU)
    checked = check_batch(run, sampler, 0)
    assert checked.differing
    assert checked.max_difference
    assert 0 < checked.mean_difference < checked.max_difference < 60


def test_without_stored_pixels_there_is_no_difference_to_measure(run: RunDirectory) -> None:
    for receipt in run.receipts(IMAGES):
        bare = receipt.model_copy(update={"kept": "none"})
        run.storage.replace(receipt.name, bare.model_dump_json().encode())
    checked = check_batch(run, sampler_of(run), 1)
    assert checked.differing == ()
    assert checked.max_difference is None


@pytest.mark.parametrize(("count", "chosen"), [(2, 2), (6, 6), (50, 6), (0, 0)])
def test_batches_to_check_are_committed_ones(
    finished: RunDirectory, count: int, chosen: int
) -> None:
    batches = choose_batches(finished, count)
    assert len(batches) == len(set(batches)) == chosen
    assert batches == sorted(batches)
    assert set(batches) <= set(range(6))


def test_a_pixels_stage_is_checked_too(run: RunDirectory) -> None:
    receipt = run.receipts(IMAGES)[0]
    make_shard(new_worker(run), 0, 20, [PIXELS])
    (pixels,) = run.receipts(PIXELS)
    assert PIXELS in stages_of(run)
    flip_byte(run.root / pixels.files[0].path)
    assert [f.receipt_name for f in find_faults(run)] == [pixels.name]
    assert json.loads((run.root / receipt.name).read_text())["stage"] == IMAGES


def test_a_damaged_receipt_that_was_set_aside_is_named(run: RunDirectory) -> None:
    """It says which pixels must come out again; nothing is made in its place before it is read."""
    receipt = run.receipts(IMAGES)[0]
    aside = f"replaced/{IMAGES}/0000000000-0000000020-old.json"
    whole = run.storage.read(receipt.name)
    run.storage.delete(receipt.name)
    worker = new_worker(run)
    short = {**json.loads(whole), "pixel_sha256": []}
    for content in (b"{", b"\xff", b"[]", json.dumps(short).encode()):
        run.storage.replace(aside, content)
        with pytest.raises(CorruptionError, match=r"replaced/images/.*-old\.json is damaged \("):
            make_shard(worker, 0, 20, (IMAGES,))
        assert not run.storage.exists(receipt.name)
    run.storage.replace(aside, whole)
    make_shard(worker, 0, 20, (IMAGES,))
    assert run.receipts(IMAGES)[0].pixel_sha256 == receipt.pixel_sha256

"""Evaluation: prefixes, replicates, other people's samples, and everything that must be refused."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from run_maker import (
    BATCH,
    DIGITS,
    FEATURES,
    SPEC,
    make_run,
    make_shard,
    measure,
    new_run,
    new_worker,
)
from safetensors.torch import load_file, save_file

from evalsuite.artifacts.features import FeatureTable, encode_features
from evalsuite.artifacts.receipts import Receipt, ReceiptFile, range_name
from evalsuite.artifacts.records import Record
from evalsuite.artifacts.references import open_reference
from evalsuite.artifacts.run_directory import IMAGES, RunDirectory
from evalsuite.artifacts.samples import open_samples
from evalsuite.config import ProtocolSpec, canonical_json, load_spec
from evalsuite.errors import CorruptionError, DataError, IncompleteError, UsageError
from evalsuite.pipeline.evaluation import (
    check_disjoint,
    mean_of_replicates,
    payload,
    score_run,
    score_samples,
)
from evalsuite.pipeline.export import export_adm_npz, export_png
from evalsuite.pipeline.measure import Measure, check, parse_metrics
from evalsuite.pipeline.plan import with_weights
from evalsuite.pipeline.scoring import strata_of
from evalsuite.report.summary import by_protocol


def scored(path: Path, asked: Measure, num_samples: int | None = None) -> list[Record]:
    """Records of samples that someone else made."""
    found = score_samples(open_samples(path), [asked], num_samples)
    return [one.record for one in found]


def values_of(records: list[Record]) -> dict[str, tuple[float | None, float | None]]:
    """Value and error by metric."""
    return {record.metric: (record.value, record.standard_error) for record in records}


@pytest.fixture
def run(folder: Path, finished: RunDirectory) -> RunDirectory:
    """A copy of the finished run that may be written to."""
    shutil.copytree(finished.root, folder)
    return RunDirectory.open(folder)


def test_every_metric_has_a_record_in_the_run(run: RunDirectory) -> None:
    """With N in its name, the protocol that it was made by, and the plan's own nfe."""
    records = score_run(run, measure(), 60)
    assert [record.metric for record in records] == list(DIGITS.metrics)
    for record in records:
        assert record.display.startswith("digits-")
        assert record.display.endswith("-60")
        assert record.value is not None
        assert record.protocol.num_samples == 60
        assert record.protocol.label_rule == "modulo"
        assert record.samples["plan_id"] == run.manifest.plan_id
        assert record.samples["mixed_numerics"] is False
        stored = json.loads((run.root / record.path).read_text())
        assert Record.model_validate(stored) == record


def test_a_prefix_scores_as_a_shorter_run(run: RunDirectory, tmp_path: Path) -> None:
    """Bit for bit: 30 of 60 are the 30 of a run of 30 with other shards."""
    short = make_run(tmp_path / "short", 30, 10)
    ours, theirs = score_run(run, measure(), 30), score_run(short, measure(), 30)
    assert values_of(ours) == values_of(theirs)
    assert [r.protocol_id for r in ours] == [r.protocol_id for r in theirs]
    whole = score_run(run, measure(), 60)
    assert values_of(whole) != values_of(ours)
    assert {r.protocol_id for r in whole}.isdisjoint(r.protocol_id for r in ours)


def test_stored_pixels_score_as_the_features_of_the_run(run: RunDirectory) -> None:
    """A run without features is embedded here: the same bits."""
    fused = values_of(score_run(run, measure(), 60))
    shutil.rmtree(run.root / "receipts" / "features")
    assert values_of(score_run(run, measure(), 60)) == fused


@pytest.mark.parametrize("layout", ["npz", "png", "parquet"])
def test_exported_samples_score_as_the_run(
    finished: RunDirectory, tmp_path: Path, layout: str
) -> None:
    """In every layout. The errors are those of unknown labels: balanced ones are not assumed."""
    if layout == "npz":
        path = tmp_path / "samples.npz"
        export_adm_npz(finished, 60, path)
    elif layout == "png":
        path = tmp_path / "png"
        export_png(finished, 60, path)
    else:
        path = finished.root / "images"
    records = scored(path, measure())
    fused = score_run(RunDirectory.open(copied(finished, tmp_path)), measure(), 60)
    assert {r.metric: r.value for r in records} == {r.metric: r.value for r in fused}
    for record in records:
        assert record.protocol.label_rule is None
        assert record.protocol.uint8_rule is None
        assert record.protocol.codec == (None if layout == "npz" else "lossless")
        assert record.samples["path"] == path.name


def copied(run: RunDirectory, tmp_path: Path) -> Path:
    """A copy that may be written to."""
    shutil.copytree(run.root, tmp_path / "copy")
    return tmp_path / "copy"


def test_a_prefix_of_outside_samples_and_too_many(finished: RunDirectory, tmp_path: Path) -> None:
    """Asked for more than there are is an error, not fewer."""
    path = tmp_path / "samples.npz"
    export_adm_npz(finished, 60, path)
    (record,) = scored(path, measure(metrics=["fid"]), 40)
    assert record.protocol.num_samples == 40
    with pytest.raises(DataError, match="holds 60 images, fewer than --num-samples 61"):
        scored(path, measure(), 61)


def test_exports_stream_the_stored_pixels(finished: RunDirectory, tmp_path: Path) -> None:
    """In index order, with labels; equal exports are equal bytes; nothing is overwritten."""
    first, second = tmp_path / "a.npz", tmp_path / "b.npz"
    assert export_adm_npz(finished, 45, first) == export_adm_npz(finished, 45, second)
    assert first.read_bytes() == second.read_bytes()
    with np.load(first, allow_pickle=False) as archive:
        images, labels = archive["arr_0"], archive["arr_1"]
    np.testing.assert_array_equal(labels, np.arange(45) % 10)
    for (_, image), exported in zip(finished.read_images(0, 45), images, strict=True):
        np.testing.assert_array_equal(image, exported)
    with pytest.raises(UsageError, match="exists already"):
        export_adm_npz(finished, 45, first)
    export_png(finished, 12, tmp_path / "png")
    names = sorted(p.name for p in (tmp_path / "png").iterdir())
    assert names == [f"{i:010d}.png" for i in range(12)]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "png" / names[7])), images[7])
    with pytest.raises(UsageError, match="is not an empty folder"):
        export_png(finished, 12, tmp_path / "png")
    with pytest.raises(IncompleteError):
        export_adm_npz(finished, 61, tmp_path / "c.npz")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "b.npz", "png"]


def test_an_incomplete_run_is_not_scored(run: RunDirectory) -> None:
    """It lists what is missing; with fewer samples it scores."""
    receipt = run.receipts(IMAGES)[1]
    (run.root / receipt.name).unlink()
    with pytest.raises(IncompleteError, match=r"images of samples 20\.\.39 are missing"):
        score_run(run, measure(), 60)
    assert score_run(run, measure(), 20)
    assert not any("-60" in r["display"] for r in run.read_json_folder("results"))


def test_missing_features_are_listed(run: RunDirectory) -> None:
    (run.root / run.receipts(FEATURES)[1].name).unlink()
    with pytest.raises(IncompleteError, match=r"features of samples 20\.\.39 are missing"):
        score_run(run, measure(), 60)
    assert score_run(run, measure(), 20)


def test_features_of_other_pixels_are_not_scored(run: RunDirectory) -> None:
    receipt = run.receipts(FEATURES)[2]
    other = receipt.model_copy(update={"pixels_digest": "ab" * 32})
    run.storage.replace(receipt.name, other.model_dump_json().encode())
    with pytest.raises(CorruptionError, match="made of other pixels"):
        score_run(run, measure(), 60)
    assert score_run(run, measure(), 40)


@pytest.mark.parametrize("stage", [IMAGES, FEATURES])
def test_a_corrupted_shard_is_not_scored(run: RunDirectory, stage: str) -> None:
    path = run.root / run.receipts(stage)[1].files[0].path
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptionError):
        score_run(run, measure(), 60)


def test_nan_features_are_a_data_error(folder: Path) -> None:
    """Committed ones, whose digest is right."""
    run = make_run(folder, 20, 20)
    table = run.read_features(SPEC.extractor_id, 20)
    table.pool_ND[13, 2] = np.nan
    replace_features(run, run.receipts(FEATURES)[0], table)
    for metric in ("fid", "precision"):
        with pytest.raises(DataError, match=r"NaN|finite"):
            score_run(run, measure(metrics=[metric]), 20)
    assert run.read_json_folder("results") == []


def replace_features(run: RunDirectory, receipt: Receipt, table: FeatureTable) -> None:
    """Another feature file under a receipt that names it."""
    content = encode_features(table)
    name = f"{range_name(receipt.start, receipt.stop)}-{receipt.attempt_id}.safetensors"
    path = f"{FEATURES}/{name}"
    (run.root / path).write_bytes(content)
    file = ReceiptFile(
        path=path, num_bytes=len(content), sha256=hashlib.sha256(content).hexdigest()
    )
    lie = receipt.model_copy(update={"files": (file,)})
    run.storage.replace(receipt.name, lie.model_dump_json().encode())


def test_extractor_weights_with_nan_give_no_number(finished: RunDirectory, tmp_path: Path) -> None:
    """Features become NaN in the pass, and no metric turns them into a value."""
    weights = load_file(SPEC.path.parent / SPEC.weights.file)
    weights["conv1.bias"][3] = float("nan")
    save_file(weights, tmp_path / "nan.safetensors")
    spec = with_weights(SPEC, tmp_path / "nan.safetensors")
    reference = measure(None, ["inception_score"])._replace(spec=spec)
    with pytest.raises(DataError):
        scored(finished.root / "images", reference)


@pytest.mark.parametrize(
    ("metric", "fewest"),
    [("fid", 2), ("sfid", 2), ("inception_score", 2), ("precision", 4), ("recall", 4)],
)
def test_fewer_samples_than_a_metric_needs(run: RunDirectory, metric: str, fewest: int) -> None:
    """Refused before anything is read, naming metric and number."""
    with pytest.raises(DataError, match=f"{metric} needs at least {fewest} samples"):
        score_run(run, measure(metrics=[metric]), fewest - 1)
    assert score_run(run, measure(metrics=[metric]), fewest)


def test_small_numbers_of_samples_say_so(run: RunDirectory) -> None:
    """Below two samples per dimension there is no interval, below eight no value at infinite N."""
    (record,) = score_run(run, measure(metrics=["fid"]), 60)
    assert record.standard_error is None
    assert record.extrapolated is None
    assert any("no standard error" in note for note in record.notes)
    assert any("nothing is said of infinite N; use kid" in note for note in record.notes)


def other_extractor(tmp_path: Path) -> Any:
    """The digits extractor with other weights."""
    weights = load_file(SPEC.path.parent / SPEC.weights.file)
    weights["conv1.bias"][3] += 1
    save_file(weights, tmp_path / "other.safetensors")
    return with_weights(SPEC, tmp_path / "other.safetensors")


def test_a_reference_of_another_extractor_is_refused(
    finished: RunDirectory, tmp_path: Path
) -> None:
    """By the SHA-256 of its weights, before a forward pass."""
    asked = measure()._replace(spec=other_extractor(tmp_path))
    with pytest.raises(DataError, match="was made with extractor digits-convnet"):
        check(asked, 60)
    with pytest.raises(DataError, match="their features cannot be compared"):
        scored(finished.root / "images", asked)


@pytest.mark.parametrize(
    ("arrays", "metric", "text"),
    [
        ({"mu": np.zeros(7), "sigma": np.eye(7)}, "fid", "mu has 7 values, but extractor"),
        ({"mu": np.zeros(64), "sigma": np.eye(64)}, "sfid", "neither moments nor images for sfid"),
        (
            {"mu": np.zeros(64), "sigma": np.eye(64)},
            "recall",
            "holds no images, which recall needs",
        ),
        ({"arr_0": np.zeros((9, 8, 8, 3), np.uint8)}, "fid", "do not fit digits-convnet"),
    ],
)
def test_references_that_lack_what_a_metric_needs(
    tmp_path: Path, arrays: dict[str, Any], metric: str, text: str
) -> None:
    path = tmp_path / "reference.npz"
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=text):
        check(measure(str(path), [metric]), 60)


def test_without_a_reference_only_the_inception_score(finished: RunDirectory) -> None:
    check(measure(None, ["inception_score"]), 60)
    with pytest.raises(UsageError, match="fid needs a --reference"):
        check(measure(None, ["fid"]), 60)
    path = finished.root / "images"
    (record,) = scored(path, measure(None, ["inception_score"]))
    assert record.reference is None
    assert record.protocol.reference_sha256 is None


def test_a_reference_of_images_is_embedded(finished: RunDirectory, tmp_path: Path) -> None:
    """Its moments are those that were stored for the same images, to float32 rounding."""
    stored = open_reference("digits-16-heldout")
    assert stored.images
    images = np.concatenate(list(stored.images.portions(stored.images.num_images)))
    path = tmp_path / "images.npz"
    np.savez(path, images)
    names = ["fid", "sfid", "precision", "recall"]
    ours, theirs = (
        values_of(scored(finished.root / "images", measure(name, names)))
        for name in (str(path), "digits-16-heldout")
    )
    for name in names:
        assert ours[name][0] == pytest.approx(theirs[name][0], rel=1e-4)
    assert ours["precision"] == theirs["precision"]


def test_real_digits_have_distance_zero_from_themselves(tmp_path: Path) -> None:
    """FID of a set with itself; precision and recall 1."""
    reference = open_reference("digits-16-heldout")
    assert reference.images
    images = np.concatenate(list(reference.images.portions(540)))
    path = tmp_path / "same.npz"
    np.savez(path, images)
    values = values_of(scored(path, measure("digits-16-heldout")))
    assert abs(values["fid"][0] or 0) < 1e-3
    assert abs(values["sfid"][0] or 0) < 1e-3
    assert values["precision"][0] == values["recall"][0] == 1


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.npz"
    np.savez(path, np.zeros((10, 32, 32, 3), np.uint8))
    with pytest.raises(DataError, match="images of 32x32, but extractor digits-convnet takes"):
        scored(path, measure())


def test_overlapping_replicates_are_refused_with_the_count(tmp_path: Path) -> None:
    """Neighbouring first seeds share almost all samples; the mean would count them twice."""
    runs = [new_run(tmp_path / f"r{seed}", first_seed=seed) for seed in (0, 40, 100)]
    check_disjoint(runs, 40)
    with pytest.raises(UsageError, match="share 20 of 60 samples"):
        check_disjoint(runs, 60)
    with pytest.raises(UsageError, match="share 20 of 60 samples"):
        check_disjoint(runs[::-1], 60)
    with pytest.raises(UsageError, match="share 60 of 60"):
        check_disjoint([runs[0], runs[0]], 60)
    check_disjoint(runs[:1], 10**6)


def test_runs_that_differ_in_more_than_seeds_are_no_replicates(tmp_path: Path) -> None:
    plain = new_run(tmp_path / "a")
    other = new_run(tmp_path / "b", replicate=1, sampling={"guidance_scale": 3.0})
    with pytest.raises(UsageError, match=r"are no replicates: sampling\.guidance_scale is 1\.5"):
        check_disjoint([plain, other], 10)


def test_the_mean_over_disjoint_replicates(run: RunDirectory, tmp_path: Path) -> None:
    """Mean and standard error over two runs, computed by hand."""
    other = make_run(tmp_path / "other", 60, 30, replicate=1)
    check_disjoint([run, other], 60)
    scores = [score_run(r, measure(metrics=["fid", "recall"]), 60) for r in (run, other)]
    values = [[record.value for record in rows] for rows in scores]
    means = mean_of_replicates(scores)
    assert [m.display for m in means] == ["digits-FID-60", "digits-Recall-60"]
    for mean, (a, b) in zip(means, zip(*values, strict=True), strict=True):
        assert mean.num_runs == 2
        assert mean.mean == pytest.approx((a + b) / 2)
    for mean, rows in zip(means, zip(*scores, strict=True), strict=True):
        pooled = [row.standard_error for row in rows]
        if None not in pooled:
            assert mean.standard_error == pytest.approx(
                (pooled[0] ** 2 + pooled[1] ** 2) ** 0.5 / 2
            )
        else:
            assert mean.standard_error == pytest.approx(abs(rows[0].value - rows[1].value) / 2)
    assert values[0] != values[1]


def test_the_json_payload_can_be_hashed_and_has_every_metric(run: RunDirectory) -> None:
    content = payload(score_run(run, measure(), 60), {"num_samples": 60})
    assert content["num_samples"] == 60
    assert list(content["metrics"]) == list(DIGITS.metrics)
    assert {"value", "standard_error", "protocol_id"} <= content["metrics"]["fid"].keys()
    assert canonical_json(content)


def test_a_run_on_two_kinds_of_machines_says_so(run: RunDirectory) -> None:
    receipt = run.receipts("images")[0]
    other = receipt.model_copy(update={"numerics_id": "0" * 64})
    run.storage.replace(receipt.name, other.model_dump_json().encode())
    (record,) = score_run(run, measure(metrics=["fid"]), 60)
    assert record.samples["mixed_numerics"] is True
    assert len(record.samples["numerics_ids"]) == 2


def test_metric_names() -> None:
    """In the registry's order, whatever was asked; the nearest for an unknown one."""
    assert parse_metrics(None, DIGITS) == list(DIGITS.metrics)
    assert parse_metrics("recall, fid", DIGITS) == ["fid", "recall"]
    assert parse_metrics("kid", DIGITS) == ["kid"]
    with pytest.raises(UsageError, match="did you mean 'recall'"):
        parse_metrics("recal", DIGITS)
    for nothing in ("", " , "):
        with pytest.raises(UsageError, match="names no metric"):
            parse_metrics(nothing, DIGITS)


def test_strata_are_for_labels_that_are_balanced_by_rule() -> None:
    """Random labels are no strata; nor are classes with a single sample."""
    labels = [0, 1, 0, 1]
    np.testing.assert_array_equal(strata_of("modulo", labels), labels)
    np.testing.assert_array_equal(strata_of("blocked:2", labels), labels)
    assert strata_of("random:0", labels) is None
    assert strata_of("file:abc", labels) is None
    assert strata_of(None, labels) is None
    assert strata_of("modulo", [0, 1, 2]) is None


def test_features_alone_need_no_images(folder: Path) -> None:
    """A run that kept no pixels is scored from its features."""
    run = new_run(folder)
    worker = new_worker(run, keep="none")
    make_shard(worker, 0, 2 * BATCH)
    assert score_run(run, measure(), 20)
    with pytest.raises(IncompleteError, match="stored pixels"):
        list(run.read_images(0, 20))


def test_a_number_of_two_protocols_keeps_both_names(run: RunDirectory) -> None:
    """FID is the same number by both; the Inception Score is not."""
    other = load_spec(ProtocolSpec, "torch-fidelity")
    names = ["fid", "inception_score"]
    score_run(run, measure(metrics=names), 60)
    score_run(run, measure(metrics=names)._replace(protocol=other), 60)
    stored = [Record.model_validate(c) for c in run.read_json_folder("results")]
    found = {(r.metric, frozenset(r.protocol_names)) for r in stored}
    assert found == {
        ("fid", frozenset({"digits", "torch-fidelity"})),
        ("inception_score", frozenset({"digits"})),
        ("inception_score", frozenset({"torch-fidelity"})),
    }
    parts = by_protocol(stored)
    assert [sorted(r.metric for r in part) for part in parts] == [names, names]

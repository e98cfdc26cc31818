"""What is gathered of a run: the reference of its number, its features, its pixels."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from evalsuite.artifacts.features import FeatureTable
from evalsuite.artifacts.images import Keep, pixel_sha256
from evalsuite.artifacts.receipts import Receipt, commit_receipt
from evalsuite.artifacts.records import Record
from evalsuite.artifacts.references import open_reference
from evalsuite.artifacts.run_directory import IMAGES, RunDirectory, feature_stage
from evalsuite.config import ExtractorSpec, LabelRule, load_spec
from evalsuite.diagnosis.duplicates import probe_duplicates
from evalsuite.diagnosis.findings import CannotTell, Clear, Finding, Outcome
from evalsuite.diagnosis.gathering import (
    Comparison,
    comparison_of,
    expected_of,
    gather,
    subject_of_run,
)
from evalsuite.diagnosis.material import Material
from evalsuite.diagnosis.probes import diagnose
from evalsuite.diagnosis.recorded import probe_record
from evalsuite.diagnosis.wrong_reference import probe_reference
from evalsuite.errors import DataError
from evalsuite.features.base import FeatureBatch
from evalsuite.pipeline.analysis import chosen_images, images_of_run
from evalsuite.pipeline.embedding import embed_images
from evalsuite.pipeline.evaluation import score_run
from evalsuite.pipeline.measure import Measure, protocol_named
from evalsuite.pipeline.ranges import ShardTask
from evalsuite.pipeline.stages import FeatureSink, Produced
from jobs.why.rates import CPU, subject_of

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))
from run_builder import add_attempt, add_record, add_shard, make_plan, make_run

NOTHING = Comparison(None, None, None, [])
"""No extractor and no reference."""


def run_of_digits(root: Path, count: int = 64, keep: Keep = "all") -> RunDirectory:
    """A run whose pixels are real digits of no model."""
    run = make_run(root, plan=make_plan(), num_images=0)
    real = open_reference("digits-16-heldout").images
    assert real is not None
    for start in range(0, count, 32):
        digits = chosen_images(real, range(start, start + 32))
        add_shard(run, start, start + 32, keep, given=digits)
    asked = {"num_samples": count, "part": None, "keep": keep, "shard_format": "parquet"}
    add_attempt(run, resolved=asked)
    return run


def material_of(run: RunDirectory, records: Sequence[Record] | None = None) -> Material:
    """As `evalsuite why RUN` gathers it, with records in this order."""
    subject, expected = subject_of_run(run), expected_of(None, run)
    if records is not None:
        subject = subject._replace(records=list(records))
    return gather(subject, expected, comparison_of(subject, expected, None, None, CPU), CPU)


def test_a_run_may_be_measured_against_a_second_reference(tmp_path: Path) -> None:
    """Whichever record comes first: only a run without the wanted one is to blame."""
    run = run_of_digits(tmp_path / "run")
    other = add_record(run, "fid", 64, 2.0, reference="digits-16-heldout")
    found = probe_reference(material_of(run))
    assert isinstance(found, Finding)
    assert "against digits-16-heldout" in found.evidence
    wanted = add_record(run, "fid", 64, 1.0, reference="digits-16-train")
    for records in ([other, wanted], [wanted, other]):
        material = material_of(run, records)
        assert isinstance(probe_reference(material), Clear)
        assert material.asked is not None
        assert material.asked.name == "digits-16-train"


def test_a_run_of_few_samples_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", num_images=32)
    add_attempt(run, resolved={"num_samples": 15})
    with pytest.raises(DataError, match="holds 15 images: nothing can be told of fewer than 16"):
        subject_of_run(run)


def add_features(run: RunDirectory, table: FeatureTable, spec: ExtractorSpec) -> None:
    """Commit one shard of features."""
    stage, stop = feature_stage(spec.extractor_id), table.start + len(table.pool_ND)
    sink = FeatureSink(run.storage, ShardTask(table.start, stop, (stage,)), "f1", stage)
    sink.write(Produced(None, {stage: [FeatureBatch(*table[1:])]}), [])
    (head,) = run.committed(IMAGES, table.start, stop)
    fields = {**head.model_dump(), "stage": stage, "files": sink.finish(), "attempt_id": "f1"}
    assert commit_receipt(run.storage, Receipt.model_validate(fields))


@pytest.mark.parametrize("keep", ["all", "none"])
def test_features_of_some_samples_are_no_error(keep: Keep, tmp_path: Path) -> None:
    """Pixels stand in for them; without pixels nothing can be told; of all they are used."""
    spec = load_spec(ExtractorSpec, "digits-convnet")
    run, whole = run_of_digits(tmp_path / "run", keep=keep), run_of_digits(tmp_path / "whole")
    table = embed_images(images_of_run(whole, range(64)), spec, CPU)
    marked = table._replace(pool_ND=table.pool_ND + 1)
    add_features(run, marked.rows(0, 32), spec)
    material = material_of(run)
    if keep == "all":
        assert material.features is not None
        np.testing.assert_allclose(material.features.pool_ND, table.pool_ND, atol=1e-4)
    else:
        assert material.features is None
        assert "no features by digits-convnet of all samples" in material.why_no("features")
    add_features(run, marked.rows(32, 64), spec)
    again = material_of(RunDirectory.open(run.root)).features
    assert again is not None
    np.testing.assert_array_equal(again.pool_ND, marked.pool_ND)


def test_a_record_that_its_samples_contradict_is_named_first(tmp_path: Path) -> None:
    """Edited, and its hash taken away; before that it is as the samples have it."""
    spec = load_spec(ExtractorSpec, "digits-convnet")
    run = run_of_digits(tmp_path / "run")
    table = embed_images(images_of_run(run, range(64)), spec, CPU)
    for start in (0, 32):
        add_features(run, table.rows(start, start + 32), spec)
    reference = open_reference("digits-16-train")
    measure = Measure(spec, reference, ["fid"], CPU, protocol_named(None, spec))
    (record,) = score_run(run, measure, 64)
    clean = material_of(run)
    assert isinstance(probe_record(clean), Clear)
    assert not [text for text in clean.remarks if "hash" in text]
    assert record.value is not None
    near, far = record.value * (1 + 1e-4), record.value * (1 + 1e-2)  # near: of another machine
    for value, is_wrong in ((0.1, True), (far, True), (near, False), (record.value, False)):
        edited = record.model_copy(update={"value": value, "record_sha256": None})
        run.write_json(record.path, edited.model_dump(mode="json"))
        material = material_of(run)
        assert any("is without its hash" in text for text in material.remarks)
        found = diagnose(material).findings
        assert ("record" in found) == is_wrong
        told = probe_record(material)
        assert isinstance(told, Finding if is_wrong else Clear)
        assert ("within 0.1%" in str(told)) == (value == near)
        if is_wrong:
            assert next(iter(found)) == "record"
            assert f"the samples give {record.value:.4f}" in found["record"].evidence
    other = record.model_copy(
        update={"value": 0.1, "protocol": record.protocol.model_copy(update={"codec": "lossy"})}
    )
    told = probe_record(material_of(run, [other]))
    assert isinstance(told, CannotTell)  # of another protocol nothing is said


def test_copies_are_named_by_their_index_in_the_whole_set() -> None:
    """Of a set that is larger than the choice, and of a run that keeps some pictures."""
    noise = np.random.default_rng(0).integers(0, 256, (2600, 8, 8, 3)).astype(np.uint8)
    rows = subject_of(noise, None).rows_N
    first, second = rows[:5], rows[1900:1905]
    assert second[0] != 1900
    for change in (0, 1):  # equal in every pixel, or near
        noise[second] = noise[first]
        noise[second, 0, 0] ^= change
        found = duplicates_of(noise)
        assert isinstance(found, Finding)
        assert f"(first: {first[0]} and {second[0]})" in found.evidence


def test_without_reference_images_a_few_near_pairs_are_no_copies() -> None:
    """Nobody knows how many are usual; of equal pixels one is enough."""
    noise = np.random.default_rng(0).integers(0, 256, (300, 8, 8, 3)).astype(np.uint8)
    noise[200:204] = noise[:4] ^ 1
    found = duplicates_of(noise)
    assert isinstance(found, Clear)
    assert "4 pairs are near, of fewer than 5 nothing is said" in found.seen
    noise[204] = noise[4] ^ 1
    assert isinstance(duplicates_of(noise), Finding)
    assert isinstance(duplicates_of(noise[[*range(200), 0]]), Finding)


def duplicates_of(images: NDArray[np.uint8]) -> Outcome:
    """What is said of samples in memory without a reference."""
    return probe_duplicates(gather(subject_of(images, None), None, NOTHING, CPU))


def test_kept_pictures_know_their_samples(tmp_path: Path) -> None:
    plan = make_plan().model_copy(update={"labels": LabelRule(rule="blocked", per_class=16)})
    run = make_run(tmp_path / "run", plan=plan, keep="grid", num_images=128)
    add_attempt(run, resolved={"num_samples": 128})
    subject = subject_of_run(run)
    assert subject.images_MHWC is not None
    hashes = [pixel_sha256(image) for image in subject.images_MHWC]
    assert subject.image_rows_M[:10].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 16, 17]
    assert hashes == [subject.digests[row] for row in subject.image_rows_M]

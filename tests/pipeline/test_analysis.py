"""Classes of an evaluated run, and samples beside their nearest reference images."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from run_maker import SPEC, hashes_of, make_run, measure

from evalsuite.artifacts.images import pixel_sha256
from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.artifacts.samples import open_samples
from evalsuite.errors import CorruptionError, DataError, IncompleteError, UsageError
from evalsuite.metrics.authenticity import auth_pct
from evalsuite.pipeline.analysis import (
    NEEDS_FEATURES,
    chosen_images,
    chosen_record,
    class_names_of,
    class_table,
    features_of_run,
    features_of_samples,
    images_of_run,
    neighbourhood,
    records_of,
)
from evalsuite.pipeline.evaluation import score_run

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """140 samples, which is more than two for each of 64 dimensions; FID of 130 and of 140."""
    run = make_run(tmp_path_factory.mktemp("analysis") / "run", 140, 70)
    score_run(run, measure(metrics=["fid", "precision"]), 140)
    score_run(run, measure(metrics=["fid"]), 130)
    score_run(run, measure("digits-16-heldout", ["fid"]), 140)
    return run


def test_contributions_sum_to_the_value(evaluated: RunDirectory) -> None:
    """Each class has its samples, its mean influence and its name."""
    record = chosen_record(evaluated, "fid", "digits-16-train", num_samples=130)
    table = class_table(evaluated, record)
    assert sum(share.contribution for share in table.shares) == pytest.approx(record.value)
    assert [(share.label, share.count) for share in table.shares] == [(i, 13) for i in range(10)]
    influence = np.load(evaluated.root / record.influence_path)
    for share in table.shares:
        mine = influence[share.label :: 10]
        assert share.influence == pytest.approx(mine.mean())
        assert share.standard_error == pytest.approx(mine.std(ddof=1) / np.sqrt(13))
    assert table.name_of(7) == "seven"
    assert replace_names(table, None).name_of(7) == "7"
    assert replace_names(table, ("zero",)).name_of(7) == "7"


def replace_names(table: Any, names: tuple[str, ...] | None) -> Any:
    return table._replace(names=names)


def test_names_are_those_of_the_manifest_or_of_the_preset(evaluated: RunDirectory) -> None:
    manifest = evaluated.manifest
    for changes, expected in (
        ({}, "seven"),
        ({"class_names": None}, "seven"),
        ({"class_names": None, "prompts": tuple("abcdefgh")}, "h"),
    ):
        other = RunDirectory(evaluated.storage, manifest.model_copy(update=changes))
        names = class_names_of(other)
        assert names is not None
        assert names[7] == expected
    nobody = manifest.model_copy(update={"class_names": None, "model": "diffusers:some/model"})
    assert class_names_of(RunDirectory(evaluated.storage, nobody)) is None


def test_a_record_is_chosen_and_never_guessed(evaluated: RunDirectory) -> None:
    """By reference, by number and by protocol; whatever is ambiguous is listed."""
    assert len(records_of(evaluated)) == 4
    with pytest.raises(UsageError, match="several records of fid: choose by --reference") as caught:
        chosen_record(evaluated, "fid")
    assert str(caught.value).count("digits-FID-") == 3
    record = chosen_record(evaluated, "fid", "digits-16-heldout")
    assert chosen_record(evaluated, "fid", protocol=record.protocol_id[:10]) == record
    assert chosen_record(evaluated, "fid", "digits-16-heldout", "digits") == record
    with pytest.raises(UsageError, match="no such record of fid, it has: digits-FID-1"):
        chosen_record(evaluated, "fid", "elsewhere")
    with pytest.raises(UsageError, match=r"no record of kid: .* --metrics kid"):
        chosen_record(evaluated, "kid")
    with pytest.raises(UsageError, match="did you mean 'fid'"):
        chosen_record(evaluated, "fidd")


def test_what_has_no_influence_or_another_is_refused(evaluated: RunDirectory) -> None:
    with pytest.raises(DataError, match="has no influence values"):
        class_table(evaluated, chosen_record(evaluated, "precision"))
    record = chosen_record(evaluated, "fid", "digits-16-train", num_samples=140)
    path = evaluated.root / record.influence_path
    before = path.read_bytes()
    try:
        for content, why in (
            (before[:100], "cannot be read"),
            (b"", "cannot be read"),
            ((evaluated.root / "manifest.json").read_bytes(), "cannot be read"),
        ):
            path.write_bytes(content)
            with pytest.raises(CorruptionError, match=why):
                class_table(evaluated, record)
        np.save(path, np.zeros(139))
        with pytest.raises(CorruptionError, match="does not hold the influence of 140 samples"):
            class_table(evaluated, record)
    finally:
        path.write_bytes(before)


def test_pixels_and_features_of_chosen_samples(finished: RunDirectory, tmp_path: Path) -> None:
    """In the order in which they were asked, from a run and from an NPZ, stored or compressed."""
    indices = [41, 3, 4, 58]
    images = images_of_run(finished, indices)
    hashes = hashes_of(finished, 60)
    assert [pixel_sha256(image) for image in images] == [hashes[i] for i in indices]
    everything = images_of_run(finished, range(60))
    np.savez(tmp_path / "stored.npz", arr_0=everything)
    np.savez_compressed(tmp_path / "small.npz", arr_0=everything)
    features = features_of_run(finished, indices, measure())
    for name in ("stored.npz", "small.npz"):
        samples = open_samples(tmp_path / name)
        np.testing.assert_array_equal(chosen_images(samples, indices), images)
        found = features_of_samples(samples, indices, measure())
        np.testing.assert_allclose(found, features, atol=1e-4)
        with pytest.raises(DataError, match=r"holds images 0..59, there is no 60"):
            chosen_images(samples, [1, 60])


def test_a_run_without_features_is_embedded(finished: RunDirectory) -> None:
    """By an extractor that it has none of."""
    other = measure()._replace(spec=SPEC.model_copy(update={"version": SPEC.version + 1}))
    assert other.spec.extractor_id != SPEC.extractor_id
    expected = features_of_run(finished, [7, 0], measure())
    np.testing.assert_allclose(features_of_run(finished, [7, 0], other), expected, atol=1e-4)


def test_pixels_that_were_not_kept(finished: RunDirectory) -> None:
    with pytest.raises(IncompleteError, match=r"samples 60\.\.60 are missing"):
        images_of_run(finished, [1, 60])


def test_copies_are_found_and_are_not_authentic(tmp_path: Path) -> None:
    """Real images against themselves, in reverse; a new picture among them."""
    with np.load(SPEC.path.parents[2] / "reference_stats/digits-16-train.npz") as archive:
        real = archive["arr_0"][:50]
    rng = np.random.default_rng(0)
    odd = rng.integers(0, 256, real[:1].shape).astype(np.uint8)
    np.savez(tmp_path / "s.npz", arr_0=np.concatenate([real[::-1], odd]))
    np.savez(tmp_path / "r.npz", arr_0=real)
    samples = open_samples(tmp_path / "s.npz")
    m = measure(str(tmp_path / "r.npz"), NEEDS_FEATURES)
    chosen = [0, 49, 50]
    found = neighbourhood(features_of_samples(samples, chosen, m), chosen, m, 2)
    assert found.indices == (0, 49, 50)
    assert found.found.indices_NQ[:2, 0].tolist() == [49, 0]
    assert found.num_copies == 2
    assert found.num_reference == 50
    all_features = features_of_samples(open_samples(tmp_path / "r.npz"), range(50), m)
    features = features_of_samples(samples, chosen, m)
    assert found.auth_pct == pytest.approx(auth_pct(features, all_features, CPU))
    assert found.auth_pct == pytest.approx(100 / 3)


def test_references_without_images_are_refused(finished: RunDirectory, tmp_path: Path) -> None:
    np.savez(tmp_path / "moments.npz", mu=np.zeros(64), sigma=np.eye(64))
    features = features_of_run(finished, [0], measure())
    for m in (measure(str(tmp_path / "moments.npz"), NEEDS_FEATURES), measure(None)):
        with pytest.raises(DataError, match="holds no images, only statistics"):
            neighbourhood(features, [0], m, 1)
    m = measure(metrics=NEEDS_FEATURES)
    assert m.reference is not None
    few = m.reference.images
    assert few is not None
    m = m._replace(reference=replace(m.reference, images=replace(few, num_images=3), path=None))
    with pytest.raises(DataError, match="4 neighbours were asked for, the reference has 3"):
        neighbourhood(features, [0], m, 4)

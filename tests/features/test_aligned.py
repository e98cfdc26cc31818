"""Aligned extraction: how images are cut into portions cannot change a bit of their features."""

import functools
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from evalsuite.config import ExtractorSpec, data_root, load_spec
from evalsuite.errors import ConfigError, DataError
from evalsuite.features.aligned import AlignedExtractor, concatenate, extract_all
from evalsuite.features.base import Extractor, FeatureBatch
from evalsuite.features.registry import build_extractor

SPEC = load_spec(ExtractorSpec, "digits-convnet")
COUNT = 170
CPU = torch.device("cpu")


@functools.cache
def digits() -> NDArray[np.uint8]:
    """Real digits."""
    with np.load(data_root() / "reference_stats" / "digits-16-heldout.npz") as archive:
        return archive["arr_0"][:COUNT]


@functools.cache
def extractor() -> Extractor:
    """The real digits extractor, in batches of 50."""
    torch.set_num_threads(1)
    return build_extractor(SPEC, SPEC.path.parent / SPEC.weights.file, CPU)


@functools.cache
def whole() -> FeatureBatch:
    """Features of samples 0..169 in one go."""
    return concatenate(extract_all(extractor(), [digits()]))


def same(ours: FeatureBatch, start: int, stop: int) -> None:
    """Bit for bit the features of samples start..stop-1."""
    for part, expected in zip(ours, whole(), strict=True):
        assert part is not None
        assert expected is not None
        np.testing.assert_array_equal(part, expected[start:stop])


def in_portions(start: int, sizes: list[int]) -> FeatureBatch:
    """Features of the samples from `start` on, pushed in portions of these sizes."""
    aligned = AlignedExtractor(extractor())
    found: list[FeatureBatch] = []
    for low, high in itertools.pairwise(itertools.accumulate([start, *sizes])):
        found += aligned.push(low, digits()[low:high])
    return concatenate([*found, *aligned.flush()])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 70), min_size=1, max_size=8))
def test_features_do_not_depend_on_how_images_are_cut(sizes: list[int]) -> None:
    total = sum(sizes)
    while total > COUNT:
        total -= sizes.pop()
    if sizes:
        same(in_portions(0, sizes), 0, total)


@pytest.mark.parametrize("start", [50, 100])
@pytest.mark.parametrize("sizes", [[50], [10, 40, 20], [1] * 7, [70]])
def test_a_shard_that_starts_at_a_batch_of_the_extractor(start: int, sizes: list[int]) -> None:
    """Its features are the bits that the whole set gives."""
    same(in_portions(start, sizes), start, start + sum(sizes))


def test_every_image_keeps_its_slot() -> None:
    """From any start: an image alone stands in slot i % 50 of a batch that is else empty."""
    seen: list[NDArray[np.uint8]] = []

    class Spy:
        batch_size = 50

        def __call__(self, images_NHWC: NDArray[np.uint8]) -> FeatureBatch:
            seen.append(images_NHWC)
            return extractor()(images_NHWC)

    aligned = AlignedExtractor(Spy())
    found = [*aligned.push(73, digits()[73:112]), *aligned.flush()]
    assert [len(part.pool_ND) for part in found] == [27, 12]
    for block, low, high in ((seen[0], 73, 100), (seen[1], 100, 112)):
        assert block.shape == (50, 16, 16, 3)
        slot = low % 50
        np.testing.assert_array_equal(block[slot : slot + high - low], digits()[low:high])
        assert not block[:slot].any()
        assert not block[slot + high - low :].any()


@pytest.mark.parametrize("start", [1, 37, 49, 73, 99])
def test_any_start_gives_the_same_features(start: int) -> None:
    """The slot is the same; what stands in the other slots does not reach this one."""
    same(in_portions(start, [20, 31]), start, start + 51)


def test_complete_batches_are_given_at_once() -> None:
    """So that a worker holds at most one batch of images back."""
    aligned = AlignedExtractor(extractor())
    pushed = [aligned.push(at, digits()[at : at + 30]) for at in range(0, 150, 30)]
    assert [[len(batch.pool_ND) for batch in p] for p in pushed] == [[], [50], [], [50], [50]]
    assert aligned.flush() == []


@pytest.mark.parametrize("first", [0, 9, 11])
def test_images_that_do_not_follow_are_refused(first: int) -> None:
    aligned = AlignedExtractor(extractor())
    aligned.push(0, digits()[:10])
    with pytest.raises(ValueError, match="does not follow sample 9"):
        aligned.push(first, digits()[10:20])


def test_after_a_flush_the_next_push_may_start_anywhere() -> None:
    aligned = AlignedExtractor(extractor())
    aligned.push(0, digits()[:10])
    same(concatenate(aligned.flush()), 0, 10)
    assert aligned.flush() == []
    aligned.push(120, digits()[120:130])
    same(concatenate(aligned.flush()), 120, 130)


def test_images_of_another_size_are_refused_by_the_extractor() -> None:
    aligned = AlignedExtractor(extractor())
    aligned.push(0, np.zeros((10, 8, 8, 3), np.uint8))
    with pytest.raises(DataError, match="16 x 16"):
        aligned.flush()


def test_an_unknown_extractor_family_gets_the_nearest() -> None:
    spec = SPEC.model_copy(update={"family": "digits-convent"})
    with pytest.raises(ConfigError, match="did you mean 'digits-convnet'"):
        build_extractor(spec, SPEC.path.parent / SPEC.weights.file, CPU)

"""An NPZ in which one byte of a pixel changed is never scored, however parts of it are read."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from run_maker import CPU, SPEC, measure

from evalsuite.artifacts.samples import open_samples
from evalsuite.config import data_root
from evalsuite.errors import CorruptionError
from evalsuite.pipeline.embedding import embed
from evalsuite.pipeline.outside import extract_uncached
from evalsuite.pipeline.reference_building import build_reference
from evalsuite.pipeline.reference_data import prepare_reference
from evalsuite.pipeline.reference_request import BuildRequest, Part
from evalsuite.pipeline.source import Source
from evalsuite.runtime.extraction import OutsideExtraction
from evalsuite.runtime.workforce import Workforce

COUNT = 60
HELD_OUT = data_root() / "reference_stats" / "digits-16-heldout.npz"


@pytest.fixture
def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sixty digits with labels, stored and not compressed."""
    monkeypatch.setenv("EVALSUITE_CACHE", str(tmp_path / "cache"))
    with np.load(HELD_OUT) as held_out:
        images, labels = held_out["arr_0"][:COUNT], held_out["arr_1"][:COUNT]
    path = tmp_path / "whole.npz"
    np.savez(path, arr_0=images, arr_1=labels)
    return path


@pytest.fixture
def damaged(whole: Path) -> Path:
    """The same with one bit of the fortieth image changed."""
    content = bytearray(whole.read_bytes())
    content[1000 + 39 * 16 * 16 * 3] ^= 1
    path = whole.with_name("damaged.npz")
    path.write_bytes(content)
    return path


def first_part(path: Path) -> None:
    embed(open_samples(path), 20, SPEC, CPU)


def resized_by_two_processes(path: Path) -> None:
    embed(open_samples(path, resize="bicubic:16"), COUNT, SPEC, CPU, decoders=2)


def first_part_uncached(path: Path) -> None:
    extract_uncached(open_samples(path), 20, measure())


def some_of_each_class(path: Path) -> None:
    """The damaged image need not be among them."""
    output = path.parent / f"built-{path.stem}"
    parts: frozenset[Part] = frozenset({"images"})
    build_reference(BuildRequest(path, "mine", output, per_class=1, parts=parts))


def as_reference(path: Path) -> None:
    prepare_reference(measure(str(path), ["precision"]), decoders=2)


def test_what_was_read_in_part_says_that_no_checksum_was_compared(whole: Path) -> None:
    def read(count: int) -> str | None:
        extraction = OutsideExtraction(
            Source(whole, None, False), Workforce(1, device="cpu"), lambda _: None, print
        )
        extraction(open_samples(whole), count, measure())
        return extraction.reports[0].read_in_part

    said = read(20)
    assert said is not None
    assert "the first 20 of 60 images" in said
    assert read(COUNT) is None
    assert read(20) is None, "the same file has been compared since"


READERS = [
    first_part,
    resized_by_two_processes,
    first_part_uncached,
    some_of_each_class,
    as_reference,
]


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
def test_a_changed_byte_is_found_however_it_is_read(
    read: Callable[[Path], None], whole: Path, damaged: Path
) -> None:
    read(whole)
    with pytest.raises(CorruptionError, match="do not match the zip's checksum"):
        read(damaged)

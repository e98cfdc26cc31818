"""Other people's statistics: what is read as it stands, what is refused, and what is never run."""

import contextlib
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalsuite.artifacts.statistics_files import read_moments_npz, read_moments_pickle
from evalsuite.errors import DataError

D = 5
PARTS = ("fid", "fd_dinov2")


def cov(seed: int = 0, size: int = D) -> np.ndarray:
    """A covariance."""
    values = np.random.default_rng(seed).normal(size=(size + 3, size))
    return np.cov(values, rowvar=False)


def npz(tmp_path: Path, **arrays: Any) -> Path:
    path = tmp_path / "stats.npz"
    np.savez(path, **arrays)
    return path


def pickled(tmp_path: Path, content: object, protocol: int = 4) -> Path:
    path = tmp_path / "stats.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("dtype", ["<f4", "<f8", ">f8"])
def test_an_npz_is_read_as_it_stands(tmp_path: Path, dtype: str) -> None:
    """Widened, nothing else; what is not asked for (`mu_clip`) may be anything."""
    mu, sigma = np.arange(D).astype(dtype), cov().astype(dtype)
    path = npz(tmp_path, mu=mu, sigma=sigma, mu_clip=np.full(3, np.nan), sigma_clip=np.zeros(1))
    found = read_moments_npz(path, "mu", "sigma", 7)
    assert found is not None
    assert found.count == 7
    for array, original in ((found.mean_D, mu), (found.cov_DD, sigma)):
        assert array.dtype == np.dtype("=f8")
        np.testing.assert_array_equal(array, original.astype(np.float64))
    assert read_moments_npz(path, "mu_s", "sigma_s", 7) is None


def test_different_dtypes_of_mean_and_covariance(tmp_path: Path) -> None:
    """LSUN's batch of ADM has a float32 mean beside a float64 covariance."""
    path = npz(tmp_path, mu=np.zeros(D, np.float32), sigma=cov())
    found = read_moments_npz(path, "mu", "sigma", None)
    assert found is not None
    assert found.mean_D.dtype == np.float64


def test_rounding_is_no_asymmetry(tmp_path: Path) -> None:
    """float32 sums in another order differ a little; they are kept as they are."""
    sigma = cov().astype(np.float32)
    sigma[0, 1] *= 1 + 2e-6
    found = read_moments_npz(npz(tmp_path, mu=np.zeros(D), sigma=sigma), "mu", "sigma", None)
    assert found is not None
    np.testing.assert_array_equal(found.cov_DD, sigma.astype(np.float64))


def broken(change: Callable[[np.ndarray], object]) -> np.ndarray:
    sigma = cov()
    change(sigma)
    return sigma


UNFIT = {
    "one is missing": ({"mu": np.zeros(D)}, "one of mu and sigma"),
    "half": ({"mu": np.zeros(D, np.float16), "sigma": cov()}, "float16.*do not fit"),
    "whole numbers": ({"mu": np.zeros(D, int), "sigma": cov()}, "float32 or float64"),
    "complex": ({"mu": np.zeros(D), "sigma": cov().astype(complex)}, "complex128.*do not fit"),
    "shapes": ({"mu": np.zeros(D), "sigma": cov(size=4)}, r"\(5,\) and sigma \(4, 4\) do not fit"),
    "empty": ({"mu": np.zeros(0), "sigma": np.zeros((0, 0))}, "do not fit"),
    "NaN": ({"mu": np.full(D, np.nan), "sigma": cov()}, "NaN or infinite"),
    "triangular": ({"mu": np.zeros(D), "sigma": np.triu(cov())}, "sigma is not symmetric"),
    "one entry": (
        {"mu": np.zeros(D), "sigma": broken(lambda s: s.__setitem__((0, 1), 9.0))},
        "not symmetric",
    ),
    "more than any use of it takes": (
        {
            "mu": np.zeros(D),
            "sigma": broken(lambda s: s.__setitem__((0, 1), s[1, 0] + 2e-5 * s.max())),
        },
        "not symmetric",
    ),
    "negative": (
        {"mu": np.zeros(D), "sigma": broken(lambda s: s.__setitem__((2, 2), -1.0))},
        "negative variance",
    ),
    "objects": ({"mu": np.array([{}] * D, dtype=object), "sigma": cov()}, "cannot read mu"),
}


@pytest.mark.parametrize(("arrays", "words"), UNFIT.values(), ids=UNFIT)
def test_statistics_that_are_none(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        read_moments_npz(npz(tmp_path, **arrays), "mu", "sigma", None)
    assert "stats.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_pickle_of_edm2(tmp_path: Path, protocol: int, order: Any) -> None:
    """Every protocol, both memory orders, with what else such a file may hold."""
    content = {
        part: {"mu": np.arange(3.0) + i, "sigma": np.array(cov(i, 3), order=order)}
        for i, part in enumerate(PARTS)
    }
    extra = {"num_images": np.int64(1281167), "note": "x", "list": [1, 2.5, None, True]}
    found = read_moments_pickle(pickled(tmp_path, content | extra, protocol), 9)
    assert found.keys() == set(PARTS)
    for part in PARTS:
        np.testing.assert_array_equal(found[part].mean_D, content[part]["mu"])
        np.testing.assert_array_equal(found[part].cov_DD, content[part]["sigma"])
        assert found[part].count == 9


def test_a_pickle_of_edm_has_one_pair_without_a_part(tmp_path: Path) -> None:
    content = {"mu": np.zeros(3, ">f4"), "sigma": np.eye(3, dtype=">f4")}
    found = read_moments_pickle(pickled(tmp_path, content))
    np.testing.assert_array_equal(found["fid"].cov_DD, np.eye(3))


def test_the_old_home_of_numpy(tmp_path: Path) -> None:
    """Files written by numpy 1 name `numpy.core`, those by numpy 2 `numpy._core`."""
    path = pickled(tmp_path, {"mu": np.zeros(3), "sigma": np.eye(3)}, 2)
    content = path.read_bytes()
    assert b"numpy._core" in content
    path.write_bytes(content.replace(b"numpy._core", b"numpy.core"))
    np.testing.assert_array_equal(read_moments_pickle(path)["fid"].cov_DD, np.eye(3))


class Acting:
    """Runs something when it is unpickled freely."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call


PAIR = {"mu": np.zeros(3), "sigma": np.eye(3)}


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_nothing_of_a_pickle_is_run(
    tmp_path: Path, protocol: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it names: a command, a built-in, an import, a class; the name is in the line."""
    monkeypatch.chdir(tmp_path)
    calls = {
        "system": (os.system, ("touch ran",)),
        "eval": (eval, ("open('ran', 'w')",)),
        "getattr": (getattr, ("x", "upper")),
        "OrderedDict": (OrderedDict, ()),
        "load": (np.load, ("ran",)),
    }
    for name, call in calls.items():
        path = pickled(tmp_path, {**PAIR, "x": Acting(*call)}, protocol)
        with pytest.raises(DataError, match=rf"names \S+\.{name}, .*nothing of it was run"):
            read_moments_pickle(path)
        assert not (tmp_path / "ran").exists()


def test_the_reader_cannot_be_changed(tmp_path: Path) -> None:
    """A pickle that sets the state of what rebuilds its arrays would change the next file's."""
    state = b"}\x8c\x05_callNsb."  # {"_call": None}, then BUILD
    for name in (b"numpy\nndarray\n", b"numpy\ndtype\n", b"numpy.core.multiarray\nscalar\n"):
        path = tmp_path / "stats.pkl"
        path.write_bytes(b"\x80\x02c" + name + state)
        with pytest.raises(DataError, match="tries to change what reads it"):
            read_moments_pickle(path)
    assert read_moments_pickle(pickled(tmp_path, PAIR)).keys() == {"fid"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "no dictionary"),
        ({"a": 1}, "no mu and sigma"),
        ({}, "no mu and sigma"),
        ({"fid": {"mu": [0.0], "sigma": [[1.0]]}}, "no array"),
        ({"mu": np.array([{}], object), "sigma": np.eye(1)}, "cannot be read"),
        ({"mu": np.array(["a"]), "sigma": np.eye(1)}, "not one of numbers"),
        ({"mu": np.zeros(3), "sigma": np.triu(np.ones((3, 3)))}, "not symmetric"),
    ],
)
def test_pickles_that_hold_something_else(tmp_path: Path, content: object, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        read_moments_pickle(pickled(tmp_path, content))
    assert "stats.pkl" in str(caught.value)


def test_a_pickle_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "stats.pkl"
    for content in (b"", b"PK\x03\x04", b"\x80\x05.", pickle.dumps(PAIR)[:-30], b"<html>"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"stats\.pkl"):
            read_moments_pickle(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_moments_pickle(tmp_path / "absent.pkl")


@given(st.integers(0, 10**6), st.integers(0, 255))
def test_a_damaged_pickle_is_an_error_of_ours(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int
) -> None:
    """One changed byte anywhere: other numbers, or a DataError; never anything else."""
    content = bytearray(pickle.dumps({"fid": PAIR, "n": 3}))
    content[position % len(content)] = value
    path = tmp_path_factory.getbasetemp() / "damaged.pkl"
    path.write_bytes(content)
    with contextlib.suppress(DataError):
        assert read_moments_pickle(path)

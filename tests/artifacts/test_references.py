"""References: what is stored, what is missing, and files that are not what their sidecar names."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from evalsuite.artifacts.references import Reference, open_reference
from evalsuite.config import ReferenceSpec, data_root, load_spec
from evalsuite.errors import ConfigError, CorruptionError, DataError, EvalsuiteError, UsageError

NAME = "digits-16-heldout"
D = 6


def moments(**changes: Any) -> dict[str, Any]:
    """Arrays of a small reference."""
    eye = np.eye(D)
    fields = {"mu": np.arange(D) / D, "sigma": eye, "mu_s": np.zeros(D), "sigma_s": eye}
    return {k: v for k, v in (fields | changes).items() if v is not None}


def written(tmp_path: Path, **arrays: Any) -> str:
    """An NPZ without a sidecar."""
    path = tmp_path / "reference.npz"
    np.savez(path, **arrays)
    return str(path)


def copied(tmp_path: Path, **changes: Any) -> Path:
    """A registered reference with its sidecar in another folder."""
    folder = data_root() / "reference_stats"
    shutil.copy(folder / f"{NAME}.npz", tmp_path)
    content = yaml.safe_load((folder / f"{NAME}.yaml").read_text()) | changes
    path = tmp_path / f"{NAME}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_registered_reference_by_name_by_sidecar_and_by_file(tmp_path: Path) -> None:
    """One and the same."""
    sidecar = copied(tmp_path)
    found = [open_reference(n) for n in (NAME, str(sidecar), str(sidecar.with_suffix(".npz")))]
    for reference in found:
        assert reference.name == NAME
        assert reference.pool
        assert reference.pool.count == load_spec(ReferenceSpec, NAME).statistics_count == 540
        assert reference.images
        assert reference.images.num_images == 540
        assert reference.spec
    assert len({r.pool.sha256 for r in found if r.pool}) == 1


def test_a_file_without_sidecar(tmp_path: Path) -> None:
    """Then nobody says how many images are behind it."""
    reference = open_reference(written(tmp_path, **moments()))
    assert isinstance(reference, Reference)
    assert reference.spec is None
    assert reference.images is None
    assert reference.pool
    assert reference.pool.count is None
    np.testing.assert_array_equal(reference.pool.mean_D, np.arange(D) / D)
    assert reference.spatial


def test_a_folder_of_images(tmp_path: Path) -> None:
    for i in range(3):
        Image.new("RGB", (4, 4), (i, i, i)).save(tmp_path / f"{i}.png")
    reference = open_reference(str(tmp_path))
    assert reference.pool is None
    assert reference.images
    assert reference.images.num_images == 3


def test_float32_statistics_are_widened(tmp_path: Path) -> None:
    arrays = moments(mu=np.zeros(D, np.float32), sigma=np.eye(D, dtype=np.float32))
    reference = open_reference(written(tmp_path, **arrays))
    assert reference.pool
    assert reference.pool.cov_DD.dtype == np.float64


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        (moments(sigma=None), "one of mu and sigma"),
        (moments(mu_s=None), "one of mu_s and sigma_s"),
        ({"other": np.zeros(3)}, "neither mu and sigma nor images"),
        (moments(mu=None, sigma=None), "neither mu and sigma nor images"),
        (moments(mu=np.zeros(D + 1)), "do not fit"),
        (moments(sigma=np.eye(D)[:3]), "do not fit"),
        (moments(mu=np.zeros((1, D))), "do not fit"),
        (moments(mu=np.zeros(D, int)), "do not fit"),
        (moments(mu=np.full(D, np.nan)), "NaN or infinite"),
        (moments(sigma_s=np.full((D, D), np.inf)), "NaN or infinite"),
        (moments(mu=np.array([{}] * D, dtype=object)), "cannot read mu"),
        ({"arr_0": np.zeros((3, 4, 4))}, "must be uint8"),
    ],
)
def test_references_that_cannot_be_used(tmp_path: Path, arrays: dict[str, Any], text: str) -> None:
    with pytest.raises(DataError) as caught:
        open_reference(written(tmp_path, **arrays))
    assert text in str(caught.value)
    assert "reference.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_file(tmp_path: Path, share: float) -> None:
    path = Path(written(tmp_path, **moments()))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(DataError, match=r"reference\.npz"):
        open_reference(str(path))


def test_a_file_that_is_not_the_one_its_sidecar_names(tmp_path: Path) -> None:
    """One flipped bit, anywhere, under the name, the sidecar or the file."""
    sidecar = copied(tmp_path)
    path = sidecar.with_suffix(".npz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    for name in (sidecar, path):
        with pytest.raises(CorruptionError, match="SHA-256 differs"):
            open_reference(str(name))
    path.unlink()
    with pytest.raises(DataError, match="does not exist"):
        open_reference(str(sidecar))


def test_a_sidecar_with_an_unknown_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'statistic_count'.*'statistics_count'"):
        open_reference(str(copied(tmp_path, statistic_count=3)))


@pytest.mark.parametrize("name", ["digits-16-heldoud", "none.npz", "none.yaml", "notes.txt"])
def test_names_of_nothing(tmp_path: Path, name: str) -> None:
    """The nearest name, or the path."""
    (tmp_path / "notes.txt").write_text("x")
    given = name if "digits" in name else str(tmp_path / name)
    with pytest.raises(EvalsuiteError) as caught:
        open_reference(given)
    assert name in str(caught.value)
    assert isinstance(caught.value, UsageError | DataError)
    if "digits" in name:
        assert "did you mean 'digits-16-heldout'?" in str(caught.value)

"""Resize rules: names, sizes that come out, and what each does to pixels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from evalsuite.artifacts.resizing import resize_rule
from evalsuite.errors import UsageError

NAMES = ["adm-crop:16", "torchvision-crop:16", "torchvision-crop:16:bicubic", "bicubic:16", "none"]


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Random pixels."""
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize("name", NAMES)
def test_names_are_canonical(name: str) -> None:
    assert resize_rule(name).name == name


def test_a_default_filter_is_not_named() -> None:
    assert resize_rule("torchvision-crop:8:bilinear") == resize_rule("torchvision-crop:8")
    assert resize_rule("adm-crop:8:bicubic").name == "adm-crop:8"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("adm-crob:256", "did you mean 'adm-crop'"),
        ("", "unknown resize rule"),
        ("adm-crop", "needs a size of 1 to 8192: adm-crop:256"),
        ("adm-crop:0", "needs a size"),
        ("bicubic:-4", "needs a size"),
        ("bicubic:9999", "needs a size"),
        ("adm-crop:256:bilinear", "only torchvision-crop has a choice"),
        ("torchvision-crop:256:lanczos", "bilinear or bicubic"),
    ],
)
def test_rules_that_are_none(text: str, line: str) -> None:
    with pytest.raises(UsageError, match=line):
        resize_rule(text)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(NAMES), st.integers(1, 90), st.integers(1, 90))
def test_every_picture_comes_out_with_the_size_that_was_said(
    name: str, width: int, height: int
) -> None:
    rule = resize_rule(name)
    pixels = rule(picture(width, height))
    assert pixels.shape == (*rule.size_of((height, width)), 3)
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize("name", NAMES[:3])
def test_a_picture_of_the_size_is_only_cropped(name: str) -> None:
    """Its shorter side fits, so the filter has nothing to do."""
    image = picture(21, 16)
    np.testing.assert_array_equal(resize_rule(name)(image), np.asarray(image)[:, 2:18])


def test_odd_margins() -> None:
    """ADM rounds down, torchvision half to even: 3 over is 1 there and 2 here."""
    image = picture(19, 16)
    np.testing.assert_array_equal(resize_rule("adm-crop:16")(image), np.asarray(image)[:, 1:17])
    shifted = np.asarray(image)[:, 2:18]
    np.testing.assert_array_equal(resize_rule("torchvision-crop:16")(image), shifted)


def halved(pixels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Means of pairs, first along a row and then along a column, each rounded half up."""
    rows = (pixels[:, ::2] + pixels[:, 1::2] + 1) // 2
    return (rows[::2] + rows[1::2] + 1) // 2


def test_adm_halves_with_a_box_first() -> None:
    """From four times the size on it only halves, twice."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    found = resize_rule("adm-crop:16")(Image.fromarray(pixels))
    np.testing.assert_array_equal(found, halved(halved(pixels.astype(np.int64))))


def test_the_long_side_is_rounded_by_each_rule() -> None:
    """30 x 47 to 16: ADM scales to 16 x 25, torchvision to 16 x 25 too, and filters differ."""
    image = picture(47, 30)
    adm = image.resize((25, 16), Image.Resampling.BICUBIC).crop((4, 0, 20, 16))
    np.testing.assert_array_equal(resize_rule("adm-crop:16")(image), np.asarray(adm))
    torchvision = image.resize((25, 16), Image.Resampling.BILINEAR).crop((4, 0, 20, 16))
    np.testing.assert_array_equal(
        resize_rule("torchvision-crop:16")(image), np.asarray(torchvision)
    )


def test_bicubic_keeps_no_proportion() -> None:
    image = picture(47, 30)
    expected = image.resize((16, 16), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(resize_rule("bicubic:16")(image), np.asarray(expected))


def test_only_rgb_is_resized() -> None:
    with pytest.raises(ValueError, match="must be made RGB"):
        resize_rule("bicubic:4")(Image.new("L", (3, 3)))

"""Folders of pictures: their order and labels, and pictures that are not taken as they are."""

import io
import os
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sample_builder import PICTURES, images_of, line_of, png_bytes, write_folder

from evalsuite.artifacts.resizing import resize_rule
from evalsuite.artifacts.samples import open_samples
from evalsuite.artifacts.samples.folder import read_file
from evalsuite.errors import DataError

GREY = np.repeat(PICTURES[..., :1], 3, axis=-1)


def test_a_flat_folder(tmp_path: Path) -> None:
    """Other files and hidden ones do not count; PNG is lossless, JPEG is not."""
    folder = write_folder(tmp_path / "png")
    (folder / "notes.txt").write_text("x")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "a.png").write_bytes(b"")
    samples = open_samples(folder)
    assert (samples.num_images, samples.size, samples.codec) == (5, (5, 7), "lossless")
    assert samples.labels_N is None
    np.testing.assert_array_equal(images_of(samples, 1, 4), PICTURES[1:4])
    assert open_samples(write_folder(tmp_path / "jpg", suffix="jpg")).codec == "lossy"


def test_names_are_ordered_as_plain_text(tmp_path: Path) -> None:
    """1, 10, 2: as the tools that people compare with do it."""
    for i, name in enumerate(["1", "10", "2"]):
        Image.fromarray(PICTURES[i]).save(tmp_path / f"{name}.png")
    np.testing.assert_array_equal(images_of(open_samples(tmp_path), 0, 3), PICTURES[:3])


def test_subfolders_are_classes(tmp_path: Path) -> None:
    """In the order of relative paths, with the place of each subfolder as label."""
    for i, name in enumerate(["n01/1.png", "n01/2.JPEG", "n02/0.png", "n10/5.webp"]):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(PICTURES[i]).save(path, lossless=True)
    samples = open_samples(tmp_path)
    np.testing.assert_array_equal(samples.labels_N, [0, 0, 1, 2])
    for i in (0, 2, 3):
        np.testing.assert_array_equal(images_of(samples, i, i + 1)[0], PICTURES[i])
    Image.fromarray(PICTURES[0]).save(tmp_path / "top.png")
    assert open_samples(tmp_path).labels_N is None


def test_one_subfolder_is_no_class_and_depth_is_no_limit(tmp_path: Path) -> None:
    write_folder(tmp_path / "deep" / "deeper" / "deepest")
    assert open_samples(tmp_path).num_images == 5
    assert open_samples(tmp_path / "deep" / "deeper").labels_N is None


def test_links_to_files_count_and_loops_are_refused(tmp_path: Path) -> None:
    """A folder inside itself would be read for ever, and any linked folder inside twice."""
    folder = write_folder(tmp_path / "png")
    (folder / "zz.png").symlink_to(folder / "000.png")
    (folder / "self").symlink_to(folder / "self")
    samples = open_samples(folder)
    np.testing.assert_array_equal(images_of(samples, 5, 6)[0], PICTURES[0])
    assert samples.num_images == 6
    (folder / "sub").mkdir()
    (folder / "sub" / "up").symlink_to("..")
    assert "up is a link to a folder inside" in line_of(folder)


def test_links_that_would_lose_images(tmp_path: Path) -> None:
    """A link to a folder elsewhere and a broken link are said, not passed over."""
    folder = write_folder(tmp_path / "png")
    elsewhere = write_folder(tmp_path / "elsewhere")
    (folder / "more").symlink_to(elsewhere)
    assert "more is a link to a folder elsewhere" in line_of(folder)
    (folder / "more").unlink()
    (folder / "gone.png").symlink_to(tmp_path / "gone.png")
    assert "gone.png is no file (a broken link?)" in line_of(folder)
    (folder / "gone.png").unlink()
    (folder / "loop.png").symlink_to(folder / "loop.png")
    assert "loop.png is no file (a broken link?)" in line_of(folder)


def test_a_pipe_is_no_picture(tmp_path: Path) -> None:
    """Nobody may ever write into it: reading it would not end."""
    os.mkfifo(tmp_path / "0.png")
    for path in (Path("/dev/null"), tmp_path / "0.png"):
        with pytest.raises(DataError, match=f"cannot read {path}: it is a pipe or a device"):
            read_file(path)


def test_an_empty_folder_and_one_of_other_files(tmp_path: Path) -> None:
    assert line_of(tmp_path).endswith("holds no PNG, JPEG or WebP images and no run")
    (tmp_path / "notes.txt").write_text("x")
    assert line_of(tmp_path).endswith("(1 other file)")
    (tmp_path / "a.tiff").write_bytes(b"")
    assert "a.tiff is a picture of a kind that is not read" in line_of(tmp_path)


def test_mixed_sizes_name_two_files_and_the_remedy(tmp_path: Path) -> None:
    """At once when the probe meets it, at the latest when it is read."""
    folder = write_folder(tmp_path / "png")
    Image.fromarray(PICTURES[0][:4]).save(folder / "003.png")
    text = line_of(folder)
    assert "003.png is 4x7" in text
    assert "000.png is 5x7" in text
    assert "--resize adm-crop:256" in text
    many = write_folder(tmp_path / "many", count=129)
    Image.fromarray(PICTURES[0][:4]).save(many / "127.png")
    samples = open_samples(many)
    with pytest.raises(Exception, match=r"127.png is 4x7 .* but 000.png is 5x7"):
        images_of(samples, 0, 129)


@pytest.mark.parametrize("rule", ["adm-crop:4", "torchvision-crop:4", "bicubic:4"])
def test_mixed_sizes_through_a_rule(tmp_path: Path, rule: str) -> None:
    """The images that the rule makes of each picture."""
    folder = write_folder(tmp_path / "png")
    Image.fromarray(PICTURES[3][:4]).save(folder / "003.png")
    samples = open_samples(folder, resize=rule)
    assert (samples.size, samples.resize) == ((4, 4), rule)
    for i in range(5):
        with Image.open(folder / f"{i:03d}.png") as image:
            expected = resize_rule(rule)(image)
        np.testing.assert_array_equal(images_of(samples, i, i + 1)[0], expected)


def test_exact_conversions_when_they_are_asked_for(tmp_path: Path) -> None:
    """Greyscale, palette and opaque alpha are refused, and RGB once they are allowed."""
    opaque = Image.fromarray(PICTURES[0])
    opaque.putalpha(255)
    palette = Image.fromarray((PICTURES[0] > 99).astype(np.uint8) * 255)
    cases = {
        "greyscale (mode L)": (Image.fromarray(GREY[0][..., 0]), GREY[0]),
        "palette (mode P)": (palette.convert("P", palette=Image.Palette.ADAPTIVE), palette),
        "RGB with alpha (mode RGBA)": (opaque, PICTURES[0]),
        "black and white (mode 1)": (
            Image.fromarray(GREY[0][..., 0] > 99),
            (GREY[0] > 99).astype(np.uint8) * 255,
        ),
    }
    for number, (text, (image, expected)) in enumerate(cases.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        image.save(folder / "a.png")
        assert f"a.png is {text}, not RGB: give --convert-rgb" in line_of(folder)
        found = images_of(open_samples(folder, convert_rgb=True), 0, 1)[0]
        np.testing.assert_array_equal(found, np.asarray(expected))


def test_cmyk_becomes_what_pillow_makes_of_it(tmp_path: Path) -> None:
    """Some photographs of ImageNet are CMYK, and ADM's loader takes them so."""
    image = Image.fromarray(PICTURES[0]).convert("CMYK")
    image.save(tmp_path / "a.jpg")
    assert "a.jpg is CMYK" in line_of(tmp_path)
    with Image.open(tmp_path / "a.jpg") as opened:
        expected = np.asarray(opened.convert("RGB"))
    found = images_of(open_samples(tmp_path, convert_rgb=True), 0, 1)[0]
    np.testing.assert_array_equal(found, expected)


def test_transparency_is_never_flattened(tmp_path: Path) -> None:
    """Whether it stands in a channel, in a palette or as one colour."""
    image = Image.fromarray(PICTURES[0])
    image.putalpha(254)
    image.save(tmp_path / "a.png")
    assert "a.png is transparent in places" in line_of(tmp_path, convert_rgb=True)
    plain = Image.fromarray(PICTURES[0])
    plain.save(tmp_path / "a.png", transparency=tuple(map(int, PICTURES[0, 0, 0])))
    assert "a.png is RGB with transparency" in line_of(tmp_path)
    assert "a.png is transparent in places" in line_of(tmp_path, convert_rgb=True)


@pytest.mark.parametrize("colour", [0, 2, 4, 6])
def test_sixteen_bits_are_never_cut(tmp_path: Path, colour: int) -> None:
    """Pillow itself opens 16-bit RGB as RGB."""
    (tmp_path / "a.png").write_bytes(png_bytes(3, 2, 16, colour))
    assert "a.png has more than 8 bits" in line_of(tmp_path)
    assert "a.png has more than 8 bits" in line_of(tmp_path, convert_rgb=True)


def test_a_picture_of_100_megapixels_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    """No warning of Pillow's comes through, and its pixels need not even be there."""
    (tmp_path / "a.png").write_bytes(png_bytes(10_000, 10_000, 8, 2, data=zlib.compress(b"")))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert "a.png has 100 megapixels (10000x10000), more than the 64" in line_of(tmp_path)
    assert not caught


@pytest.mark.parametrize(("suffix", "kind"), [("jpeg", "JPEG"), ("webp", "WebP")])
@pytest.mark.parametrize("index", [0, 127])
def test_a_lossy_picture_named_png_is_refused(
    tmp_path: Path, suffix: str, kind: str, index: int
) -> None:
    """At once or, where the probe does not meet it, when it is read."""
    folder = write_folder(tmp_path / "png", count=129)
    Image.fromarray(PICTURES[index]).save(folder / f"{index:03d}.png", suffix)
    assert f"{index:03d}.png is a {kind} picture, though it is named .png" in line_of(folder)


def test_the_codec_is_told_by_bytes(tmp_path: Path) -> None:
    """ImageNet has a PNG among its JPEGs, by the name of one; a WebP may be either."""
    plain = {"format": "webp", "lossless": False}
    cases: list[tuple[list[dict[str, Any]], str, str | None]] = [
        ([{"format": "png"}, {"format": "png"}], "JPEG", "lossless"),
        ([{"format": "png"}, {"format": "jpeg"}], "JPEG", "lossy"),
        ([plain, plain], "webp", "lossy"),
        ([plain | {"lossless": True}] * 2, "webp", "lossless"),
        ([plain | {"lossless": True, "exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"}] * 2, "webp", None),
    ]
    for number, (options, suffix, codec) in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        for i, option in enumerate(options):
            Image.fromarray(PICTURES[i]).save(folder / f"{i}.{suffix}", **option)
        samples = open_samples(folder)
        assert samples.codec == codec, f"case {number}"
        images_of(samples, 0, 2)


def test_the_codec_of_pictures_that_nobody_looked_at_is_unknown(tmp_path: Path) -> None:
    """Unless their names bind them: only every second of these is looked at."""
    folder = tmp_path / "webp"
    folder.mkdir()
    for i in range(129):
        Image.fromarray(PICTURES[i]).save(folder / f"{i:03d}.webp", lossless=True)
    assert open_samples(folder).codec is None
    assert open_samples(write_folder(tmp_path / "png", count=129)).codec == "lossless"


@pytest.mark.parametrize("lossless", [False, True])
def test_a_webp_of_100_megapixels(tmp_path: Path, lossless: bool) -> None:
    """Its decoder would take the memory when it is opened; the three headers are told apart."""
    buffer = io.BytesIO()
    Image.new("RGB", (7, 5)).save(buffer, "webp", lossless=lossless)
    content = bytearray(buffer.getvalue())
    if lossless:
        content[21:25] = (
            (9999 | 9999 << 14) | int.from_bytes(content[21:25], "little") >> 28 << 28
        ).to_bytes(4, "little")
    else:
        content[26:30] = (10_000).to_bytes(2, "little") * 2
    (tmp_path / "a.webp").write_bytes(content)
    assert "a.webp has 100 megapixels" in line_of(tmp_path)
    extended = b"RIFF\0\0\0\0WEBPVP8X" + b"\x0a\0\0\0\0\0\0\0" + (9999).to_bytes(3, "little") * 2
    (tmp_path / "a.webp").write_bytes(extended)
    assert "a.webp has 100 megapixels" in line_of(tmp_path)


def test_several_frames(tmp_path: Path) -> None:
    frames = [Image.fromarray(p) for p in PICTURES[:2]]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    assert "a.png has several frames" in line_of(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a"]
)
@pytest.mark.parametrize("name", ["000.png", "004.png"])
def test_an_unreadable_image_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    folder = write_folder(tmp_path / "png")
    (folder / name).write_bytes(content)
    assert f"{name} cannot be read as an image" in line_of(folder)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_a_truncated_image_is_not_half_an_image(tmp_path: Path, suffix: str) -> None:
    folder = write_folder(tmp_path / suffix, suffix=suffix)
    path = folder / f"002.{suffix}"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    assert f"002.{suffix} cannot be read" in line_of(folder)


def test_orientation_is_ignored(tmp_path: Path) -> None:
    """As the usual evaluators do."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PICTURES[0]).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(images_of(open_samples(tmp_path), 0, 1)[0], PICTURES[0])

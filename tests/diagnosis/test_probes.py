"""Each fault put into real digits is named first; clean ones and colours are told right."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from evalsuite.artifacts.references import open_reference
from evalsuite.config import ModelPreset, load_claims, load_spec
from evalsuite.diagnosis.channels import best_order
from evalsuite.diagnosis.class_agreement import class_agreement, probe_labels
from evalsuite.diagnosis.duplicates import near_copies, probe_duplicates
from evalsuite.diagnosis.findings import ALARM, RECORDED, CannotTell, Clear, Finding, ranked
from evalsuite.diagnosis.gathering import Comparison, comparison_of, expected_of, gather
from evalsuite.diagnosis.jpeg import find_ghost
from evalsuite.diagnosis.levels import look_at_levels, probe_levels
from evalsuite.diagnosis.material import Expected, Material
from evalsuite.diagnosis.num_samples import probe_num_samples
from evalsuite.diagnosis.order import order_effect
from evalsuite.diagnosis.orientation import probe_orientation
from evalsuite.diagnosis.probes import diagnose
from evalsuite.diagnosis.spectrum import fine_detail, pixel_blocks
from evalsuite.diagnosis.thumbnails import thumbnails
from evalsuite.pipeline.analysis import chosen_images
from evalsuite.t2i.shapes import GROUND, PALETTE, SHAPES, outline
from jobs.shapes.data import training_pictures
from jobs.why.rates import (
    CPU,
    by_jpeg,
    diagnosed,
    digits,
    down_and_up,
    made,
    some_copied,
    some_exchanged,
    subject_of,
    truncated,
)

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


@pytest.fixture(scope="module")
def samples() -> tuple[Images, Labels]:
    """200 samples of the digits model in 4 steps, with the labels that were asked for."""
    return made({"num_steps": 4}, 0)


def distances_told(images: Images, labels: Labels) -> list[float]:
    """Of all samples, of half as many, and the bias; of few samples there is a finding."""
    found = diagnosed(images, labels)
    clear, finding = found.clear.get("num_samples"), found.findings.get("num_samples")
    said = clear.seen if clear else finding.evidence if finding else ""
    return [float(text) for text in re.findall(r"\d+\.\d{3}", said)]


def test_the_bias_of_n_is_that_of_halves_with_equal_classes(
    samples: tuple[Images, Labels],
) -> None:
    """Labels go round, so every other round of ten holds each class alike."""
    images, labels = samples
    whole, half, bias = distances_told(images, labels)
    rounds = np.arange(len(labels)) // 10 % 2
    by_hand = [distances_told(images[r], labels[r])[0] for r in (rounds == 0, rounds == 1)]
    assert half == pytest.approx(sum(by_hand) / 2, abs=0.002)
    assert bias == pytest.approx(half - whole, abs=0.002)
    assert bias <= whole


def rng() -> np.random.Generator:
    """The same numbers each time."""
    return np.random.default_rng(3)


def test_clean_samples_are_told_to_be_so(samples: tuple[Images, Labels]) -> None:
    """And every probe says what it saw, or why it could not look."""
    found = diagnosed(*samples)
    assert not found.findings
    assert {"labels", "channels", "jpeg", "resizing", "uint8", "duplicates"} <= set(found.clear)
    assert set(found.untold) == {"record", "guidance", "guidance_interval", "ema", "weights"}


def test_held_out_digits_are_clean() -> None:
    """They are no model's: what needs samples made again says so."""
    real = open_reference("digits-16-heldout").images
    assert real is not None
    found = diagnosed(chosen_images(real, range(300)), real.labels_N[:300])
    assert not found.findings
    assert "seeds 0, 1, 2" in found.untold["uint8"].reason
    assert "grey" in found.untold["channels"].reason


FEWER = {
    "even ones": lambda x: x // 2 * 2,
    "every third": lambda x: x // 3 * 3,
    "6 bits": lambda x: x // 4 * 4,
    "5 bits, in the middle": lambda x: x // 8 * 8 + 4,
    "5 bits and back": lambda x: ((x >> 3) * (255 / 31)).astype(np.uint8),
    "4 bits and back": lambda x: (x >> 4) * 17,
    "200 levels": lambda x: (x * (200 / 255)).astype(np.uint8),
    "200 levels and back": lambda x: np.floor(np.rint(x * 0.8) / 0.8 + 0.5).astype(np.uint8),
}


@pytest.fixture(scope="module")
def material(samples: tuple[Images, Labels]) -> Material:
    """All that probes look at, of clean samples."""
    return gather(subject_of(*samples), None, digits(), CPU)


@pytest.mark.parametrize("with_reference", [True, False])
@pytest.mark.parametrize("name", [name for name in FEWER if name != "200 levels"])
def test_grey_levels_that_are_left_out_are_found(
    name: str, with_reference: bool, material: Material, samples: tuple[Images, Labels]
) -> None:
    """However many lie between two that remain; without reference images by equal distances."""
    against = material.reference if with_reference else None
    looked = replace(material, images_MHWC=FEWER[name](samples[0]), reference=against)
    found = probe_levels(looked)
    assert isinstance(found, Finding)
    assert found.name == "truncated uint8 (grey levels left out)"


def test_grey_levels_of_clean_pictures_are_not_left_out(
    material: Material, samples: tuple[Images, Labels], shapes: Comparison
) -> None:
    """Of real digits and drawn shapes too, in sets of every size; a smaller range is no fault."""
    real = open_reference("digits-16-train").images
    assert real is not None
    images = chosen_images(real, range(1200))
    for clean in (samples[0], *(images[:count] for count in (16, 50, 200, 1200))):
        assert look_at_levels(clean).missing <= 2
    assert look_at_levels(FEWER["200 levels"](samples[0])).missing <= 2
    alone = replace(material, images_MHWC=pictures(200, 2), reference=shapes.used, twins=None)
    assert not isinstance(probe_levels(alone), Finding)


def test_without_grey_levels_nothing_is_told_of_them(material: Material) -> None:
    black = np.zeros((200, 16, 16, 3), np.uint8)
    found = probe_levels(replace(material, images_MHWC=black, twins=None))
    assert isinstance(found, CannotTell)
    assert "too few pixels lie between the ends" in found.reason


TURNED = {
    "inverted (dark for bright)": lambda x: 255 - x,
    "mirrored (left for right)": lambda x: x[:, :, ::-1],
    "upside down": lambda x: x[:, ::-1],
    "turned by 180 degrees": lambda x: np.rot90(x, 2, (1, 2)),
    "transposed (rows for columns)": lambda x: x.swapaxes(1, 2),
    "turned by 90 degrees anticlockwise": lambda x: np.rot90(x, 1, (1, 2)),
    "turned by 90 degrees clockwise": lambda x: np.rot90(x, -1, (1, 2)),
}


@pytest.mark.parametrize("name", TURNED)
def test_pictures_that_are_inverted_or_turned_are_named_first(
    name: str, material: Material, samples: tuple[Images, Labels]
) -> None:
    """And not guidance, of which a classifier that is unsure of them says nothing."""
    images = np.ascontiguousarray(TURNED[name](samples[0]))
    assert material.embed is not None
    looked = replace(
        material,
        images_MHWC=images,
        digests=[image.tobytes().hex() for image in images],
        features=material.embed(images),
        expected=expected_of("pixnerd-digits", None),
        twins=None,
    )
    found = diagnose(looked)
    assert next(iter(found.findings.values())).name == f"pictures {name}"
    assert "something else than guidance" in found.untold["guidance_in_samples"].reason


def test_a_few_steps_and_guidance_off_are_not_far(material: Material) -> None:
    """What samples are told of guidance stays told."""
    images, labels = made({"num_steps": 2, "guidance_scale": 1.0}, 17)
    assert material.embed is not None
    looked = replace(
        material, images_MHWC=images, features=material.embed(images), all_labels=labels
    )
    assert looked.is_far is False
    assert isinstance(probe_orientation(looked), Clear)


def test_few_samples_are_not_called_far(material: Material) -> None:
    """Of 64 features; the bias of the distance of a few samples is as large as that of a fault."""
    features = material.features
    assert features is not None
    for count in (33, 64, 127):
        assert replace(material, features=features.rows(0, count)).is_far is False
    few = replace(material, features=features.rows(0, 31))
    assert few.is_far is None
    told = probe_orientation(few)
    assert isinstance(told, CannotTell)
    assert "fewer than 32 samples" in told.reason


def sort(x: Images, y: Labels) -> tuple[Images, Labels]:
    """Class by class."""
    return x[np.argsort(y, kind="stable")], np.sort(y)


FAULTS = {
    "labels shifted by +1": lambda x, y: (x, (y + 1) % 10),
    "labels permuted: 3 stands for 5, 5 stands for 3": lambda x, y: (
        x,
        np.where(y == 3, 5, np.where(y == 5, 3, y)),
    ),
    "labels permuted at random": lambda x, y: (x, rng().permutation(y)),
    "some labels permuted": lambda x, y: (x, some_exchanged(y, 0.15, rng())),
    "channel order": lambda x, y: (x[..., ::-1], y),
    "truncated uint8": lambda x, y: (truncated(x, rng()), y),
    "JPEG blocks": lambda x, y: (by_jpeg(x, 95), y),
    "duplicates": lambda x, y: (some_copied(x, 0.01, rng()), y),
    "resizing": lambda x, y: (down_and_up(x, "BICUBIC"), y),
    "class-ordered Inception Score": sort,
    "too few samples (N)": lambda x, y: (x[:100], y[:100]),  # of 64 feature dimensions
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_first(name: str, samples: tuple[Images, Labels]) -> None:
    """Alone: nothing else is blamed."""
    found = diagnosed(*FAULTS[name](*samples))
    (one,) = found.findings.values()
    assert one.name == name
    assert one.strength >= ALARM


@pytest.mark.parametrize(("times", "name"), [(2, "too few samples (N)"), (0.5, "another N")])
def test_n_is_held_against_that_of_a_claim(
    times: float, name: str, samples: tuple[Images, Labels]
) -> None:
    """As soon as the user names the claim: that of the run's own model says nothing of N."""
    material = gather(subject_of(*samples), None, digits(), CPU)
    claim = load_claims()[0].model_copy(update={"num_samples": round(times * len(samples[0]))})
    expected = Expected(load_spec(ModelPreset, "pixnerd-digits"), claim, given=True)
    found = probe_num_samples(replace(material, expected=expected))
    assert isinstance(found, Finding)
    assert (found.name, found.strength) == (name, pytest.approx(ALARM + 0.5))
    unasked = replace(expected, given=False)
    assert isinstance(probe_num_samples(replace(material, expected=unasked)), Clear)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("truncated uint8", "duplicates"),
        ("truncated uint8", "JPEG blocks"),
        ("labels shifted by +1", "class-ordered Inception Score"),
        ("channel order", "duplicates"),
    ],
)
def test_two_faults_both_appear(first: str, second: str, samples: tuple[Images, Labels]) -> None:
    found = diagnosed(*FAULTS[second](*FAULTS[first](*samples)))
    assert {one.name for one in found.findings.values()} == {first, second}


def test_a_reversed_interval_is_seen_in_samples() -> None:
    """Of the preset's 0.1..0.7, with time running the other way, also in fewer steps."""
    found = diagnosed(*made({"guidance_interval": (0.3, 0.9), "num_steps": 4}, 0, 50))
    first = next(iter(found.findings.values()))
    assert first.name == "guidance interval reversed"
    assert "0.0 levels from the same made again with guidance reversed in 4 steps" in first.evidence


def test_copies_as_often_as_in_the_reference_do_not_hide_near_ones(tmp_path: Path) -> None:
    clouds = gaussian_filter(rng().normal(0, 1, (240, 24, 24, 3)), (0, 2, 2, 0))
    images = np.clip(128 + 200 * clouds, 0, 255).astype(np.uint8)
    real, ours = images[:120].copy(), images[120:].copy()
    real[:2], ours[:2] = real[2:4], ours[2:4]
    np.savez(tmp_path / "real.npz", arr_0=real)
    against = comparison_of(subject_of(ours, None), None, str(tmp_path / "real.npz"), None, CPU)
    clear = probe_duplicates(gather(subject_of(ours, None), None, against, CPU))
    assert isinstance(clear, Clear)
    assert "2 samples equal others, as often as reference images do" in clear.seen
    noise = rng().integers(-2, 3, ours[20:30].shape)
    ours[10:20] = np.clip(ours[20:30].astype(int) + noise, 0, 255)
    found = probe_duplicates(gather(subject_of(ours, None), None, against, CPU))
    assert isinstance(found, Finding)
    assert "10 pairs are nearer" in found.evidence
    assert "(first: 10 and 20)" in found.evidence


def pictures(count: int, seed: int) -> Images:
    """A coloured shape in each, 24 x 24, on a plain ground with a little noise."""
    numbers = np.random.default_rng(seed)
    made = np.empty((count, 24, 24, 3))
    made[:] = GROUND
    colors = np.array(list(PALETTE.values()))
    for image in made:
        side = int(numbers.integers(9, 16))
        top, left = numbers.integers(0, 24 - side, 2)
        cover = outline(str(numbers.choice(SHAPES)), side, side)[:, :, None]
        box = image[top : top + side, left : left + side]
        box += cover * (colors[numbers.integers(len(colors))] - box)
    noisy = made + numbers.normal(0, 2, made.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """A reference of coloured shapes, for which there is no extractor."""
    path = tmp_path_factory.mktemp("shapes") / "real.npz"
    np.savez(path, arr_0=pictures(300, 0))
    found = comparison_of(subject_of(pictures(20, 1), None), None, str(path), None, CPU)
    assert found.extractor is None
    return found


def bgr(x: Images) -> Images:
    return x[..., ::-1]


def rbg(x: Images) -> Images:
    return x[..., [0, 2, 1]]


COLOURED = {
    "channels": [bgr, rbg],
    "jpeg": [lambda x: by_jpeg(x, 75), lambda x: by_jpeg(x, 95)],
    "duplicates": [lambda x: some_copied(x, 0.02, rng())],
    "resizing": [lambda x: down_and_up(x, "BILINEAR"), lambda x: down_and_up(x, "NEAREST")],
    "uint8": [lambda x: x // 2 * 2],
}


def test_other_images_are_clean_without_extractor_and_labels(shapes: Comparison) -> None:
    found = diagnosed(pictures(200, 2), None, shapes)
    assert not found.findings
    assert {"channels", "jpeg", "resizing", "duplicates"} <= set(found.clear)
    assert "no extractor" in found.untold["class_order"].reason


def test_drawings_in_few_colours_are_clean_without_a_reference() -> None:
    """They leave out grey levels; a second conversion leaves them out at equal distances."""
    drawn = np.stack([made.image for made in training_pictures(200, 0, frozenset())])
    found = diagnosed(drawn, None, Comparison(None, None, None, []))
    assert not found.findings
    assert "in no regular order" in found.untold["uint8"].reason
    levels = rng().integers(16, 236, (200, 24, 24, 3))
    again = ((levels - 16) * 255 / 219).astype(np.uint8)
    found = diagnosed(again, None, Comparison(None, None, None, []))
    assert list(found.findings) == ["uint8"]


@pytest.mark.parametrize("probe", COLOURED)
def test_faults_of_coloured_pictures(probe: str, shapes: Comparison) -> None:
    for inject in COLOURED[probe]:
        found = diagnosed(inject(pictures(200, 2)), None, shapes)
        assert next(iter(found.findings)) == probe


def test_two_faults_of_coloured_pictures(shapes: Comparison) -> None:
    found = diagnosed(some_copied(by_jpeg(bgr(pictures(200, 2)), 85), 0.05, rng()), None, shapes)
    assert set(found.findings) == {"channels", "jpeg", "duplicates"}
    assert "BGR" in found.findings["channels"].evidence


def test_coloured_digits_know_their_channels(
    samples: tuple[Images, Labels], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """With an extractor, the effect on the distance is told too."""
    real = open_reference("digits-16-train").images
    assert real is not None
    tint = np.array([1.0, 0.8, 0.45])
    path = tmp_path_factory.mktemp("tinted") / "real.npz"
    np.savez(path, arr_0=(chosen_images(real, range(600)) * tint).astype(np.uint8))
    swapped = bgr((samples[0] * tint).astype(np.uint8))
    against = comparison_of(subject_of(swapped, None), None, str(path), digits().extractor, CPU)
    found = diagnosed(swapped, samples[1], against)
    assert next(iter(found.findings)) == "channels"


def test_ghosts_lie_where_the_compression_was() -> None:
    """And on the grid alone: what was shifted afterwards has none."""
    clean = pictures(100, 3)
    assert find_ghost(clean).z < ALARM
    for quality in (70, 90):
        pressed = by_jpeg(clean, quality)
        assert abs(find_ghost(pressed).quality - quality) <= 1
        assert find_ghost(np.roll(pressed, 3, axis=2)).z < find_ghost(pressed).z / 3
    with pytest.raises(ValueError, match="smaller than a block"):
        find_ghost(clean[:, :7])


def test_near_copies_are_found_and_neighbours_are_not() -> None:
    clouds = gaussian_filter(rng().normal(0, 1, (120, 24, 24, 3)), (0, 2, 2, 0))
    images = np.clip(128 + 200 * clouds, 0, 255).astype(np.uint8)
    assert not len(near_copies(images)[0])
    noise = rng().integers(-2, 3, images[:3].shape)
    changed = np.clip(images[:3].astype(int) + noise, 0, 255).astype(np.uint8)
    rows, copies, _ = near_copies(np.concatenate([images, changed]))
    assert rows.tolist() == [0, 1, 2, 120, 121, 122]
    assert copies.tolist() == [120, 121, 122, 0, 1, 2]


def test_the_best_order_undoes_the_permutation() -> None:
    real, images = pictures(200, 5), pictures(150, 6)
    for order, back in (((2, 1, 0), "BGR"), ((1, 2, 0), "BRG"), ((2, 0, 1), "GBR")):
        found = best_order(images[..., list(order)], real)
        assert found.name == back
        assert found.z > ALARM
        assert found.gain > 0
    assert best_order(images, real).z < 0


def test_labels_that_slipped_are_told_from_labels_that_were_renamed() -> None:
    """A classifier that is always right, with labels in no order; it sees all samples or some."""
    seen = rng().integers(0, 10, 300)
    probabilities = np.full((300, 10), 1e-3, np.float32)
    probabilities[np.arange(300), seen] = 0.991
    for rows in (np.arange(300), np.sort(rng().permutation(300)[:200])):
        looked = probabilities[rows]
        assert class_agreement(looked, seen, rows).share == 1
        slipped = class_agreement(looked, np.roll(seen, 1), rows).best
        assert (slipped.name, slipped.agreement) == ("the list of labels shifted by +1 places", 1)
        turned = class_agreement(looked, seen[::-1], rows).best
        assert (turned.name, turned.agreement) == ("the list of labels reversed", 1)
        renamed = class_agreement(looked, rng().permutation(10)[seen], rows).best
        assert renamed.name.startswith("labels permuted: ")
        assert renamed.agreement == 1


def test_labels_that_slipped_are_found_in_a_set_that_is_larger_than_the_choice() -> None:
    """Real digits of training, as often as it takes, each a little changed."""
    real = open_reference("digits-16-train").images
    assert real is not None
    assert real.labels_N is not None
    places = np.concatenate([np.arange(1257), rng().permutation(1257)])
    images = chosen_images(real, range(1257))[places]
    images[:, 0, 0, 0], images[:, 0, 1, 0] = np.arange(2514) % 256, np.arange(2514) // 256
    labels = np.roll(real.labels_N[places], 1)
    material = gather(subject_of(images, labels), None, digits(), CPU)
    found = probe_labels(material)
    assert isinstance(found, Finding)
    assert found.name == "the list of labels shifted by +1 places"


def test_order_counts_against_sorted_samples_alone() -> None:
    probabilities = np.eye(10, dtype=np.float32)[np.arange(200) % 10] * 0.9 + 0.01
    assert order_effect(probabilities).z < 0
    assert order_effect(probabilities[rng().permutation(200)]).z < ALARM
    ordered = order_effect(probabilities[np.argsort(np.arange(200) % 10)])
    assert ordered.in_order == pytest.approx(1)
    assert ordered.z > 2 * ALARM


def test_detail_is_a_share_and_blocks_are_of_a_side() -> None:
    """Brightness and contrast change nothing."""
    images = pictures(100, 7)
    assert fine_detail(images, images).ratio == 1
    assert fine_detail((images * 0.6).astype(np.uint8), images).ratio == pytest.approx(1, abs=0.15)
    assert fine_detail(down_and_up(images, "BICUBIC"), images).z < -ALARM
    repeated = images[:, :8, :8].repeat(3, axis=1).repeat(3, axis=2)
    blocks = pixel_blocks(repeated)
    assert (blocks.side, blocks.inside) == (3, 1)


def test_thumbnails_are_means_of_cells() -> None:
    image = np.zeros((1, 4, 6, 3), np.uint8)
    image[0, :2, :3] = (8, 16, 24)
    np.testing.assert_array_equal(thumbnails(image, 2)[0][:6], [8, 16, 24, 0, 0, 0])
    assert thumbnails(image, 99).shape == (1, 72)


def test_findings_are_ranked_by_strength() -> None:
    said = {
        "a": Finding("weak", 6.0, "", ""),
        "b": Clear("nothing"),
        "c": Finding("sure", RECORDED, "", ""),
        "d": CannotTell("no pixels"),
    }
    found = ranked(said)
    assert list(found.findings) == ["c", "a"]
    assert (list(found.clear), list(found.untold)) == (["b"], ["d"])

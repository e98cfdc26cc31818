"""Is the detector alive? What is checked before a score is printed.

On a GPU for which a kernel was not built the original detector went on with garbage and its scores
were near zero, without an error.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from evalsuite.artifacts.images import Images
from evalsuite.errors import EnvironmentProblem
from evalsuite.t2i.clip_network import ClipEmbedding
from evalsuite.t2i.detections import ColorClassifier, Detector
from evalsuite.t2i.mask2former import Mask2FormerDetector
from evalsuite.t2i.shapes import known_picture

_SIDE = 96
_APART = 2e-2
"""Share of the largest logit by which two devices may differ; other kernels give 1e-4, a broken one
numbers of another kind."""


def synthetic_picture(side: int = _SIDE) -> Images:
    """A disc and a bar on a gradient, uint8 [side,side,3]: the same everywhere."""
    y, x = np.mgrid[0:side, 0:side]
    image = np.stack([x * 255 // side, y * 255 // side, (x + y) * 255 // (2 * side)], axis=-1)
    image[(x - side // 3) ** 2 + (y - side // 3) ** 2 < (side // 5) ** 2] = (220, 30, 30)
    image[2 * side // 3 : 5 * side // 6, side // 8 : 7 * side // 8] = (20, 60, 200)
    return image.astype(np.uint8)


def check_alive(detector: Mask2FormerDetector) -> None:
    """Raise EnvironmentProblem when the network's answer is no number, or always the same.

    Random weights pass: what they find is asked of a photograph, with `found_instead`.
    """
    small = replace(detector, long_edge=_SIDE, short_edge=_SIDE)
    image = synthetic_picture()
    one, other = (small.logits([picture])[0] for picture in (image, 255 - image))
    finite = bool(one.isfinite().all() and other.isfinite().all())
    if not finite or torch.equal(one, other):
        what = "always the same" if finite else "no number"
        raise EnvironmentProblem(
            f"the detector fails its self-test: its answer is {what} on {detector.device}: its"
            " weights or its kernels are broken"
        )


def check_colors_alive(colors: ClipEmbedding) -> None:
    """Raise EnvironmentProblem when CLIP's answer is no number, or the same for all it is shown."""
    image = synthetic_picture()
    pictures = colors.embed_images([image, 255 - image])
    sentences = colors.embed_texts(["a photo of a red cup", "a photo of a blue cup"])
    for both in (pictures, sentences):
        finite = bool(both.isfinite().all())
        if not finite or torch.equal(both[0], both[1]):
            what = "always the same" if finite else "no number"
            raise EnvironmentProblem(
                f"the classifier of colours fails its self-test: its answer is {what} on"
                f" {colors.device}: its weights or its kernels are broken"
            )


def check_shapes(detector: Detector, colors: ColorClassifier) -> None:
    """Raise EnvironmentProblem unless the rendered shapes are found in their colours."""
    image, expected = known_picture()
    instead = found_instead(detector, image, tuple(expected))
    if instead is not None:
        raise EnvironmentProblem(
            f"the detector fails its self-test: on a picture of {', '.join(expected)} it finds"
            f" {instead}"
        )
    (found,) = detector.detect([image])
    named = {d.class_name: colors.colors_of(image, [d], d.class_name)[0] for d in found.found}
    if named != expected:
        raise EnvironmentProblem(
            f"the classifier of colours fails its self-test: it takes {expected} for {named}"
        )


def check_against_cpu(detector: Mask2FormerDetector) -> None:
    """Raise EnvironmentProblem when the network answers otherwise here than on a CPU.

    The network is moved there and back; on a CPU nothing is compared.
    """
    if detector.device.type == "cpu":
        return
    small = replace(detector, long_edge=_SIDE, short_edge=_SIDE)
    here = [tensor.float().cpu() for tensor in small.logits([synthetic_picture()])[:2]]
    cpu = torch.device("cpu")
    try:
        there = replace(small, network=detector.network.to(cpu), device=cpu)
        wanted = there.logits([synthetic_picture()])[:2]
    finally:
        detector.network.to(detector.device)
    compare_logits(here, wanted, str(detector.device))


def compare_logits(
    here: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor], where: str
) -> None:
    """Raise EnvironmentProblem when two outputs of one network are of another kind."""
    for ours, theirs in zip(here, wanted, strict=True):
        difference = float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-6))
        if not difference <= _APART:
            raise EnvironmentProblem(
                f"the detector fails its self-test: on {where} its logits differ by"
                f" {difference:.2g} of the largest from the CPU's, so a kernel is broken there and"
                " every score would be; use --device cpu, or other versions of torch"
            )


def found_instead(
    detector: Detector, image: Images, expected: Sequence[str], threshold: float = 0.0
) -> str | None:
    """What is found best in a picture where it is not what is expected; None where it is.

    Args:
        detector: that is tested.
        image: uint8 [H,W,3].
        expected: a class name for each object that it shows.
        threshold: what each must score at least.
    """
    (found,) = detector.detect([image])
    best = sorted(found.found, key=lambda d: d.score, reverse=True)[: len(expected)]
    named = sorted(one.class_name for one in best) == sorted(expected)
    if named and all(one.score >= threshold for one in best):
        return None
    return ", ".join(f"{one.class_name} ({one.score:.2f})" for one in best) or "nothing"

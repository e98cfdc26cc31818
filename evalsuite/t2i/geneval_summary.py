"""GenEval's summary: tag scores, their plain mean, and shares of images and prompts."""

from collections.abc import Iterable
from typing import NamedTuple

from evalsuite.errors import DataError
from evalsuite.t2i.geneval_prompts import TAGS


class ImageResult(NamedTuple):
    """The verdict of one image, as far as the summary needs it."""

    prompt_key: str
    """Images of equal keys belong to one prompt; officially the whole metadata record."""
    tag: str
    correct: bool


class TagScore(NamedTuple):
    """One tag."""

    correct: int
    images: int

    @property
    def score(self) -> float:
        """Share of correct images."""
        return self.correct / self.images


class GenevalSummary(NamedTuple):
    """All that the official summary prints."""

    total_images: int
    total_prompts: int
    correct_images: int
    correct_prompts: int
    """Prompts of which any image is correct."""
    tags: dict[str, TagScore]
    """The tags that occur, in the order of TAGS; others follow in alphabetical order."""

    @property
    def fraction_correct_images(self) -> float:
        """Of all images, whatever their tag."""
        return self.correct_images / self.total_images

    @property
    def fraction_correct_prompts(self) -> float:
        """Of all prompts."""
        return self.correct_prompts / self.total_prompts

    @property
    def overall(self) -> float:
        """GenEval's number: the mean of the tag scores, each tag alike."""
        return sum(tag.score for tag in self.tags.values()) / len(self.tags)


def summarise(results: Iterable[ImageResult]) -> GenevalSummary:
    """Summary of any number of images, in any order.

    Raises:
        DataError: there are none.
    """
    tags: dict[str, list[bool]] = {}
    prompts: dict[str, bool] = {}
    for one in results:
        tags.setdefault(one.tag, []).append(one.correct)
        prompts[one.prompt_key] = prompts.get(one.prompt_key, False) or one.correct
    if not tags:
        raise DataError("there are no verdicts to summarise")
    order = [*TAGS, *sorted(tags.keys() - set(TAGS))]
    return GenevalSummary(
        total_images=sum(map(len, tags.values())),
        total_prompts=len(prompts),
        correct_images=sum(map(sum, tags.values())),
        correct_prompts=sum(prompts.values()),
        tags={tag: TagScore(sum(tags[tag]), len(tags[tag])) for tag in order if tag in tags},
    )

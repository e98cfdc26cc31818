"""Qwen-VL models as judges: a picture and "answer yes or no", greedily, questions of one length.

Source: Qwen2-VL (Wang et al. 2024), whose dialogue and cutting of pictures the later models share.
The dialogue is written here, for a folder's own template is a program. Legend: P patches, D numbers
of a patch, Q questions, L tokens.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from evalsuite.artifacts.images import Images
from evalsuite.config import Frozen
from evalsuite.errors import DataError
from evalsuite.t2i.dpg import first_word

DIALOGUE = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    "<|vision_start|>{picture}<|vision_end|>{question} Answer yes or no.<|im_end|>\n"
    "<|im_start|>assistant\n"
)
PICTURE = "<|image_pad|>"
_STRETCHED = 200
"""Longest side over shortest, as the models take it."""


class Patches(NamedTuple):
    """A picture as the network takes it."""

    pixels_PD: Tensor
    """float32, in blocks of merge_size x merge_size patches."""
    grid: tuple[int, int, int]
    """Frames (one), rows and columns of patches."""


class PatchOptions(Frozen):
    """How a picture is cut; part of the protocol."""

    patch_size: int
    merge_size: int
    temporal_patch_size: int
    min_pixels: int
    max_pixels: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def cut(self, image: Images) -> Patches:
        """Resized bicubically to whole blocks of patches, and normalised: image uint8 [H,W,3]."""
        height, width = fitted(image.shape[0], image.shape[1], self)
        resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
        mean, std = (np.array(v, dtype=np.float32) for v in (self.mean, self.std))
        values = (np.asarray(resized, dtype=np.float32) / np.float32(255) - mean) / std
        size, merge = self.patch_size, self.merge_size
        rows, columns = height // size, width // size
        blocks = values.reshape(rows // merge, merge, size, columns // merge, merge, size, 3)
        ordered = blocks.transpose(0, 3, 1, 4, 6, 2, 5)[:, :, :, :, :, None]
        frames = np.repeat(ordered, self.temporal_patch_size, axis=5)
        pixels_PD = torch.from_numpy(np.ascontiguousarray(frames)).view(rows * columns, -1)
        return Patches(pixels_PD, (1, rows, columns))


def fitted(height: int, width: int, options: PatchOptions) -> tuple[int, int]:
    """The size nearest to a picture's that is whole blocks and within the bounds of pixels.

    Raises:
        DataError: a side is longer than 200 times the other.
    """
    if max(height, width) > _STRETCHED * min(height, width):
        raise DataError(f"a picture of {height}x{width} is too long for this judge")
    unit = options.patch_size * options.merge_size
    found = (round(height / unit) * unit, round(width / unit) * unit)
    if found[0] * found[1] > options.max_pixels:
        scale = math.sqrt(height * width / options.max_pixels)
        return _whole(height / scale, unit, math.floor), _whole(width / scale, unit, math.floor)
    if found[0] * found[1] < options.min_pixels:
        scale = math.sqrt(options.min_pixels / (height * width))
        return _whole(height * scale, unit, math.ceil), _whole(width * scale, unit, math.ceil)
    return found


def _whole(length: float, unit: int, rounded: Callable[[float], int]) -> int:
    return max(unit, rounded(length / unit) * unit)


def spoken(words: str) -> str:
    """`yes` or `no` where the first word is one of them, in whatever case; else the words."""
    first = first_word(words)
    return first if first in {"yes", "no"} else words.strip()


@dataclass(frozen=True)
class QwenJudge:
    """Answers questions about one picture; see `Judge`.

    Questions of one length go together, because padding would change answers.

    Attributes:
        network: a Qwen-VL model of transformers for conditional generation, in float32.
        encode: text with the dialogue's marks => token ids.
        decode: token ids => text without marks.
        options: how pictures are cut.
        device: where it runs.
        end_tokens: any of them ends an answer.
        max_tokens: of an answer.
        batch_size: questions that are asked together.
    """

    network: Any
    encode: Callable[[str], Sequence[int]]
    decode: Callable[[Sequence[int]], str]
    options: PatchOptions
    device: torch.device
    end_tokens: tuple[int, ...]
    max_tokens: int = 8
    batch_size: int = 8

    def __post_init__(self) -> None:
        """Put greedy answers in place of the folder's defaults, which draw words at random.

        What `generate` is told besides would be completed by those defaults.
        """
        import transformers

        library: Any = transformers
        self.network.generation_config = library.GenerationConfig(
            max_new_tokens=self.max_tokens,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            eos_token_id=list(self.end_tokens),
            pad_token_id=self.end_tokens[0],
        )

    @torch.inference_mode()
    def answer(self, image: Images, questions: Sequence[str]) -> list[str]:
        """`yes`, `no`, or the words where they are neither; image uint8 [H,W,3]."""
        patches = self.options.cut(image)
        marks = PICTURE * (math.prod(patches.grid) // self.options.merge_size**2)
        tokens = [
            tuple(self.encode(DIALOGUE.format(picture=marks, question=text))) for text in questions
        ]
        answers = [""] * len(questions)
        for length in sorted({len(ids) for ids in tokens}):
            places = [i for i, ids in enumerate(tokens) if len(ids) == length]
            for at in range(0, len(places), self.batch_size):
                part = places[at : at + self.batch_size]
                words = self._together(patches, [tokens[i] for i in part])
                for place, text in zip(part, words, strict=True):
                    answers[place] = spoken(text)
        return answers

    def _together(self, patches: Patches, tokens: Sequence[Sequence[int]]) -> list[str]:
        ids_QL = torch.tensor(tokens, device=self.device)
        count = len(tokens)
        given = {
            "input_ids": ids_QL,
            "attention_mask": torch.ones_like(ids_QL),
            "pixel_values": patches.pixels_PD.repeat(count, 1).to(self.device),
            "image_grid_thw": torch.tensor([patches.grid] * count, device=self.device),
        }
        if "mm_token_type_ids" in inspect.signature(self.network.forward).parameters:
            is_picture_QL = ids_QL == self.network.config.image_token_id
            given["mm_token_type_ids"] = is_picture_QL.int()
        written = self.network.generate(**given)
        return [self.decode(row) for row in written[:, ids_QL.shape[1] :].tolist()]

"""Judges of DPG-Bench: networks that answer a question about a picture.

Which one it is belongs to the protocol of every score: mPLUG's numbers are those of mPLUG alone.
Legend: Q questions, L tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from evalsuite.artifacts.images import Images
from evalsuite.t2i.clip_network import MEAN, STD

RULES_VERSION = 1
"""Of what is done to a picture, a question and an answer; to be raised with every change that gives
any question another answer, so that answers of two kinds are never mixed."""


class Judge(Protocol):
    """Answers questions about one picture."""

    def answer(self, image: Images, questions: Sequence[str]) -> list[str]:
        """The words of each answer, as the network gives them; image uint8 [H,W,3]."""
        ...


@dataclass(frozen=True)
class BlipJudge:
    """BLIP for visual questions; the picture goes through the network once for all questions.

    Questions of one length go together, because padding would change their answers.

    Attributes:
        network: a BlipForQuestionAnswering of transformers, in float32.
        encode: one question => token ids.
        decode: token ids => text without special tokens.
        device: where it runs.
        max_tokens: of an answer.
    """

    network: Any
    encode: Callable[[str], Sequence[int]]
    decode: Callable[[Sequence[int]], str]
    device: torch.device
    max_tokens: int = 10

    @torch.inference_mode()
    def answer(self, image: Images, questions: Sequence[str]) -> list[str]:
        """See `Judge`."""
        side = self.network.config.vision_config.image_size
        seen = self.network.vision_model(pixel_values=_pixels(image, side).to(self.device))[0]
        tokens = [tuple(self.encode(question)) for question in questions]
        answers = [""] * len(questions)
        for length in sorted({len(ids) for ids in tokens}):
            places = [i for i, ids in enumerate(tokens) if len(ids) == length]
            for place, text in zip(places, self._together(seen, tokens, places), strict=True):
                answers[place] = text
        return answers

    def _together(
        self, seen: Tensor, tokens: Sequence[Sequence[int]], places: Sequence[int]
    ) -> list[str]:
        ids_QL = torch.tensor([tokens[i] for i in places], device=self.device)
        seen = seen.expand(len(places), -1, -1)
        asked = self.network.text_encoder(
            input_ids=ids_QL,
            attention_mask=torch.ones_like(ids_QL),
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(
                seen.shape[:-1], dtype=torch.long, device=self.device
            ),
        )[0]
        config = self.network.config.text_config
        start = torch.full(
            (len(places), 1), self.network.decoder_start_token_id, device=self.device
        )
        written = self.network.text_decoder.generate(
            input_ids=start,
            eos_token_id=config.sep_token_id,
            pad_token_id=config.pad_token_id,
            encoder_hidden_states=asked,
            encoder_attention_mask=torch.ones(
                asked.shape[:-1], dtype=torch.long, device=self.device
            ),
            max_new_tokens=self.max_tokens,
            do_sample=False,
            num_beams=1,
        )
        return [self.decode(row).strip() for row in written.tolist()]


def _pixels(image: Images, side: int) -> Tensor:
    """float32 [1,3,side,side]: squeezed to a square bicubically, normalised as CLIP's."""
    resized = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None].float() / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (pixels - mean) / std

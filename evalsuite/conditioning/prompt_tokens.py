"""Prompts as the token sequences that a text encoder reads, and what does not fit into them.

Legend: T places for the denoiser, L tokens that the encoder reads (more than T by an instruction).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from evalsuite.conditioning.encoder_files import encoder_folders, import_transformers
from evalsuite.config import TextEncoderSpec
from evalsuite.errors import DataError


class PaddedPrompt(NamedTuple):
    """The L token numbers of a prompt, padded at the right, and how many are not padding."""

    ids: tuple[int, ...]
    num_tokens: int


class LongPrompt(NamedTuple):
    """A prompt that does not fit: position in its list, size in tokens, text that is cut.

    Tokens are counted as the denoiser's places are: without an instruction, with a start token.
    """

    position: int
    num_tokens: int
    max_length: int
    lost: str

    def describe(self) -> str:
        """One clause for a notice or an error line."""
        tail = self.lost if len(self.lost) <= 40 else f"{self.lost[:40]}..."
        return (
            f"prompt {self.position} has {self.num_tokens} tokens, the text encoder takes"
            f" {self.max_length}: {tail!r} does not fit"
        )


class PromptTokens:
    """A tokenizer with the rules of one preset: instruction, limit, padding at the right.

    The raw prompt is tokenised: no chat template, no special token but those that the tokenizer
    adds of itself (Qwen: none, Gemma: `<bos>`). Sources: facts/pixnerd.md 9, facts/pixeldit.md 6.
    """

    def __init__(self, spec: TextEncoderSpec, tokenizer: Any) -> None:  # noqa: ANN401 - untyped
        self._spec = spec
        self._tokenizer = tokenizer
        self._instruction = "\n".join(spec.instruction)
        self._num_instruction = len(self._ids(self._instruction)) if spec.instruction else 0

    def input_length(self, negative: bool = False) -> int:
        """L: T, and for a prompt with an instruction its tokens less two.

        The two are the start token, which is kept, and the instruction's last one, a blank that
        merges with the first word of the prompt.
        """
        extra = self._num_instruction - 2 if self._leads(negative) else 0
        return self._spec.max_length + extra

    def count_tokens(self, prompt: str, negative: bool = False) -> int:
        """Places that the whole prompt needs; it is cut where this exceeds `max_length`."""
        surplus = self.input_length(negative) - self._spec.max_length
        return len(self._ids(self._text(prompt, negative))) - surplus

    def padded(self, prompt: str, negative: bool = False) -> PaddedPrompt:
        """The prompt cut or padded to L tokens."""
        length = self.input_length(negative)
        ids = self._ids(self._text(prompt, negative))[:length]
        padding = [self._tokenizer.pad_token_id] * (length - len(ids))
        return PaddedPrompt((*ids, *padding), len(ids))

    def too_long(self, prompts: Sequence[str], negative: bool = False) -> list[LongPrompt]:
        """The prompts that do not fit, each with what would be cut."""
        counts = ((index, self.count_tokens(p, negative)) for index, p in enumerate(prompts))
        limit = self._spec.max_length
        return [
            LongPrompt(index, count, limit, self._lost(prompts[index], negative))
            for index, count in counts
            if count > limit
        ]

    def _leads(self, negative: bool) -> bool:
        return bool(self._spec.instruction) and not negative

    def _text(self, prompt: str, negative: bool) -> str:
        return self._instruction + prompt if self._leads(negative) else prompt

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenise(text)["input_ids"])

    def _lost(self, prompt: str, negative: bool) -> str:
        text = self._text(prompt, negative)
        start, _ = self._tokenise(text)["offset_mapping"][self.input_length(negative)]
        return text[start:]

    def _tokenise(self, text: str) -> Any:  # noqa: ANN401 - untyped library
        return self._tokenizer(
            text,
            add_special_tokens=True,
            padding=False,
            truncation=False,
            return_offsets_mapping=True,
            verbose=False,
        )


def load_prompt_tokens(spec: TextEncoderSpec, folder: Path) -> PromptTokens:
    """Read the tokenizer of an encoder's folder; cheap, it opens no weights.

    Raises:
        DataError: there is no usable tokenizer.
        EnvironmentProblem: transformers is not installed.
    """
    where = encoder_folders(folder).tokenizer
    library = import_transformers()
    try:
        tokenizer = library.AutoTokenizer.from_pretrained(
            where, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{where} holds no usable tokenizer: {error}") from error
    if not tokenizer.is_fast:
        raise DataError(f"{where}: a tokenizer.json is needed")
    if tokenizer.pad_token_id is None:
        raise DataError(f"{where}: the tokenizer names no pad token")
    return PromptTokens(spec, tokenizer)

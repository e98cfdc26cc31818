"""Prompts become the tokens that the published models feed to their encoders."""

from pathlib import Path

import pytest
from tiny_encoders import INSTRUCTION, PROMPTS, T, gemma_spec, qwen_spec
from tokenizers import Tokenizer

from evalsuite.conditioning.prompt_tokens import PromptTokens, load_prompt_tokens
from evalsuite.errors import DataError

LONG = "a cat on a chair in the garden at night and two dogs"


@pytest.fixture(scope="module")
def qwen(qwen_folder: Path) -> PromptTokens:
    return load_prompt_tokens(qwen_spec(), qwen_folder)


@pytest.fixture(scope="module")
def gemma(gemma_folder: Path) -> PromptTokens:
    return load_prompt_tokens(gemma_spec(), gemma_folder)


def raw_ids(folder: Path, text: str) -> list[int]:
    """The tokens by the tokenizers library alone."""
    return Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("negative", [False, True])
def test_qwen_reads_the_raw_prompt_and_padding(
    qwen: PromptTokens, qwen_folder: Path, prompt: str, negative: bool
) -> None:
    """No template, no start or end token; token 0 pads at the right; both sides alike."""
    ids = raw_ids(qwen_folder, prompt)
    assert qwen.padded(prompt, negative) == ((*ids, *[0] * (T - len(ids))), len(ids))


def test_a_long_prompt_keeps_its_first_tokens(qwen: PromptTokens, qwen_folder: Path) -> None:
    ids = raw_ids(qwen_folder, LONG)
    assert len(ids) > T
    assert qwen.padded(LONG) == (tuple(ids[:T]), T)


def test_gemma_reads_the_instruction_before_a_positive_prompt(
    gemma: PromptTokens, gemma_folder: Path
) -> None:
    """Instruction and prompt are one text, in (tokens of the instruction + T - 2) places."""
    instruction = "\n".join(INSTRUCTION)
    length = len(raw_ids(gemma_folder, instruction)) + T - 2
    ids = raw_ids(gemma_folder, instruction + "red cat")
    assert gemma.input_length() == length
    assert gemma.padded("red cat") == ((*ids, *[0] * (length - len(ids))), len(ids))


def test_gemma_reads_a_negative_prompt_alone(gemma: PromptTokens, gemma_folder: Path) -> None:
    """In T places, from `<bos>` on, padded at the right though the tokenizer says left."""
    ids = raw_ids(gemma_folder, "red cat")
    assert ids[0] == 2
    assert gemma.padded("red cat", negative=True) == ((*ids, *[0] * (T - len(ids))), len(ids))


@pytest.mark.parametrize("negative", [False, True])
def test_the_places_of_a_prompt_do_not_count_the_instruction(
    gemma: PromptTokens, gemma_folder: Path, negative: bool
) -> None:
    """The blank that ends the instruction merges with the first word, so both sides count alike."""
    prompt = " cat and bird" if negative else "cat and bird"
    assert gemma.count_tokens(prompt, negative) == len(raw_ids(gemma_folder, " cat and bird"))


@pytest.mark.parametrize("family", ["qwen", "gemma"])
def test_what_is_cut_is_said(family: str, request: pytest.FixtureRequest) -> None:
    """Position, tokens and text; what is left of the prompt fits exactly."""
    tokens: PromptTokens = request.getfixturevalue(family)
    (long,) = tokens.too_long(["a cat", LONG])
    assert (long.position, long.max_length) == (1, T)
    assert long.num_tokens == tokens.count_tokens(LONG) > T
    assert long.lost
    kept = LONG.removesuffix(long.lost)
    assert kept != LONG
    assert tokens.count_tokens(kept) == T
    assert tokens.padded(kept) == tokens.padded(LONG)


def test_what_is_too_long_describes_itself_with_its_count(qwen: PromptTokens) -> None:
    first, second = qwen.too_long(["a cat", LONG, LONG])
    says = f"prompt 1 has {qwen.count_tokens(LONG)} tokens, the text encoder takes {T}: "
    assert first.describe().startswith(says)
    assert second.position == 2


def test_a_prompt_that_just_fits_is_not_too_long(qwen: PromptTokens) -> None:
    fits = LONG.removesuffix(qwen.too_long([LONG])[0].lost)
    assert qwen.too_long([fits, ""]) == []


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DataError, match="no usable tokenizer"):
        load_prompt_tokens(qwen_spec(), tmp_path)

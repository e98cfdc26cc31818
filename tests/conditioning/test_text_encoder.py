"""Features of prompts are what the published models were given."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from tiny_encoders import PROMPTS, D, T, gemma_spec, qwen_spec
from torch import Tensor

from evalsuite.conditioning.text_encoder import TextEncoder, load_encoder
from evalsuite.errors import DataError

CPU = torch.device("cpu")
CLOSE = 2e-5
"""float32 rounding through three layers of values of order 1."""


def direct(folder: Path, ids: tuple[int, ...], mask: Tensor | None, attention: str) -> Tensor:
    """Last hidden state [L,D] by transformers itself."""
    from transformers import AutoModel

    network = AutoModel.from_pretrained(folder, attn_implementation=attention)
    with torch.no_grad():
        hidden: Tensor = network(torch.tensor([ids]), attention_mask=mask).last_hidden_state
    return hidden[0]


def mask_of(num_tokens: int, length: int) -> Tensor:
    return (torch.arange(length) < num_tokens)[None].long()


def gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


@pytest.fixture
def copy(qwen_folder: Path, tmp_path: Path) -> Path:
    """A folder that a test may damage."""
    return Path(shutil.copytree(qwen_folder, tmp_path / "encoder"))


@pytest.fixture(scope="module")
def qwen(qwen_folder: Path) -> TextEncoder:
    return load_encoder(qwen_spec(), qwen_folder, CPU)


def test_features_are_the_last_hidden_states_of_all_places(
    qwen: TextEncoder, qwen_folder: Path
) -> None:
    """Padding included; the attention mask goes to the encoder."""
    features = qwen.encode(PROMPTS[:2])
    assert features.shape == (2, T, D)
    assert features.dtype == torch.float32
    for prompt, row in zip(PROMPTS, features, strict=False):
        ids, num_tokens = qwen.tokens.padded(prompt)
        expected = direct(qwen_folder, ids, mask_of(num_tokens, T), "sdpa")
        assert torch.equal(row, expected)
        assert gap(row, direct(qwen_folder, ids, None, "sdpa")[: len(row)]) > 0.1


def test_features_come_after_the_final_norm(
    qwen: TextEncoder, qwen_folder: Path, gemma_folder: Path
) -> None:
    """Divided by the norm's weight, every place has a root mean square of one."""
    gemma = load_encoder(gemma_spec(), gemma_folder, CPU)
    for encoder, folder, offset in ((qwen, qwen_folder, 0), (gemma, gemma_folder, 1)):
        weight = load_file(folder / "model.safetensors")["norm.weight"] + offset
        square = (encoder.encode(["a cat"])[0] / weight).square().mean(-1)
        assert gap(square, torch.ones(T)) < 1e-4


def test_padding_does_not_change_the_prompt(qwen: TextEncoder, qwen_folder: Path) -> None:
    ids, num_tokens = qwen.tokens.padded("a cat")
    alone = direct(qwen_folder, ids[:num_tokens], None, "eager")
    assert gap(qwen.encode(["a cat"])[0, :num_tokens], alone) < CLOSE


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_prompt_changes_the_bits_of_another(qwen_folder: Path, dtype: str) -> None:
    """Alone, among others, in another order: the same features."""
    encoder = load_encoder(qwen_spec(dtype=dtype), qwen_folder, CPU)
    together = encoder.encode([*PROMPTS, "an oil painting"])
    for prompt, row in zip(PROMPTS, together, strict=False):
        assert torch.equal(encoder.encode([prompt])[0], row)
    assert torch.equal(encoder.encode(PROMPTS[::-1]).flip(0), together[:3])


class TestEmptyPrompt:
    """T places of padding with an all-zero mask: the value hangs on the attention (trap 21)."""

    def library(self, encoder: TextEncoder, folder: Path, attention: str) -> Tensor:
        ids, num_tokens = encoder.tokens.padded("")
        assert num_tokens == 0
        return direct(folder, ids, mask_of(0, T), attention)

    def test_uniform_is_eager_attention_and_no_mask_at_all(
        self, qwen: TextEncoder, qwen_folder: Path
    ) -> None:
        features = qwen.encode([""])[0]
        assert gap(features, self.library(qwen, qwen_folder, "eager")) < CLOSE
        unmasked = direct(qwen_folder, qwen.tokens.padded("").ids, None, "eager")
        assert gap(features, unmasked) < CLOSE

    @pytest.mark.parametrize("attention", ["sdpa", "eager"])
    def test_masked_is_sdpa_with_the_mask(self, qwen_folder: Path, attention: str) -> None:
        """The installed library's value bit for bit, and without asking for it."""
        spec = qwen_spec(empty_prompt="masked", attention=attention)
        encoder = load_encoder(spec, qwen_folder, CPU)
        features = encoder.encode([""])[0]
        assert torch.equal(features, self.library(encoder, qwen_folder, "sdpa"))

    def test_the_two_differ_there_and_nowhere_else(
        self, qwen: TextEncoder, qwen_folder: Path
    ) -> None:
        other = load_encoder(qwen_spec(empty_prompt="masked"), qwen_folder, CPU)
        eager = load_encoder(qwen_spec(attention="eager"), qwen_folder, CPU)
        assert gap(qwen.encode([""]), other.encode([""])) > 0.5
        assert torch.equal(qwen.encode(["a cat"]), other.encode(["a cat"]))
        assert gap(qwen.encode(PROMPTS), eager.encode(PROMPTS)) < CLOSE

    @pytest.mark.parametrize("rule", ["uniform", "masked"])
    def test_all_places_are_alike(self, qwen_folder: Path, rule: str) -> None:
        features = load_encoder(qwen_spec(empty_prompt=rule), qwen_folder, CPU).encode([""])[0]
        assert gap(features, features[:1].expand(T, D)) < CLOSE

    def test_the_encoder_is_left_as_it_was(self, qwen_folder: Path) -> None:
        encoder = load_encoder(qwen_spec(empty_prompt="masked"), qwen_folder, CPU)
        before = encoder.encode(["a cat"])
        encoder.encode([""])
        assert torch.equal(encoder.encode(["a cat"]), before)


def test_gemma_keeps_the_first_place_and_the_last(gemma_folder: Path) -> None:
    """Of instruction + prompt + padding: `<bos>`, and the T - 1 places from the prompt on."""
    encoder = load_encoder(gemma_spec(), gemma_folder, CPU)
    ids, num_tokens = encoder.tokens.padded("red cat")
    assert len(ids) > T
    hidden = direct(gemma_folder, ids, mask_of(num_tokens, len(ids)), "eager")
    assert torch.equal(encoder.encode(["red cat"])[0], hidden[[0, *range(-T + 1, 0)]])


@pytest.mark.parametrize("prompt", ["red cat", ""])
def test_gemma_encodes_a_negative_prompt_without_the_instruction(
    gemma_folder: Path, prompt: str
) -> None:
    """Even the empty one starts with `<bos>`, so no rule for empty prompts is needed."""
    features = []
    for rule in ("uniform", "masked"):
        encoder = load_encoder(gemma_spec(empty_prompt=rule), gemma_folder, CPU)
        features.append(encoder.encode([prompt], negative=True)[0])
    ids, num_tokens = encoder.tokens.padded(prompt, negative=True)
    assert num_tokens > 0
    assert torch.equal(features[0], direct(gemma_folder, ids, mask_of(num_tokens, T), "eager"))
    assert torch.equal(*features)
    assert gap(features[0], encoder.encode([prompt])[0]) > 0.1


def test_bfloat16_is_the_encoders_and_the_features_type(
    qwen: TextEncoder, qwen_folder: Path
) -> None:
    """Close to float32 within bfloat16's 8 bits through three layers, and not equal to it."""
    half = load_encoder(qwen_spec(dtype="bfloat16"), qwen_folder, CPU).encode(["a cat"])
    full = qwen.encode(["a cat"])
    assert half.dtype == torch.bfloat16
    assert 2**-9 < gap(half.float(), full) < 16 * 2**-8 * float(full.abs().max())


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_published_layouts_give_the_same_features(
    qwen: TextEncoder, qwen_folder: Path, tmp_path: Path
) -> None:
    """Shards with an index, a language model with its head, and a diffusers pipeline's folders."""
    from transformers import Qwen3ForCausalLM, Qwen3Model

    layouts = [tmp_path / name for name in ("shards", "headed", "pipeline")]
    Qwen3Model.from_pretrained(qwen_folder).save_pretrained(layouts[0], max_shard_size="100KB")
    assert (layouts[0] / "model.safetensors.index.json").is_file()
    headed = Qwen3ForCausalLM(Qwen3Model.from_pretrained(qwen_folder).config)
    headed.model.load_state_dict(load_file(qwen_folder / "model.safetensors"))
    headed.save_pretrained(layouts[1])
    assert "lm_head.weight" in load_file(layouts[1] / "model.safetensors")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(qwen_folder / name, layouts[0])
        shutil.copy(qwen_folder / name, layouts[1])
    shutil.copytree(qwen_folder, layouts[2] / "tokenizer")
    (layouts[2] / "tokenizer" / "config.json").unlink()
    (layouts[2] / "text_encoder").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(qwen_folder / name, layouts[2] / "text_encoder")
    for layout in layouts:
        features = load_encoder(qwen_spec(), layout, CPU).encode(PROMPTS)
        assert torch.equal(features, qwen.encode(PROMPTS)), layout.name


def test_loading_is_silent(qwen_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """No progress bar and no load report: the streams belong to the command line."""
    load_encoder(qwen_spec(), qwen_folder, CPU)
    assert capfd.readouterr() == ("", "")


def test_gemma_is_refused_with_an_attention_that_drops_its_soft_cap() -> None:
    with pytest.raises(ValidationError, match="needs attention 'eager'"):
        gemma_spec(attention="sdpa")


@pytest.mark.parametrize("change", [{"width": 2048}, {"kind": "gemma2", "attention": "eager"}])
def test_another_encoder_is_refused(qwen_folder: Path, change: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"holds a text encoder qwen3 of width 64, not"):
        load_encoder(qwen_spec(**change), qwen_folder, CPU)


def test_weights_are_never_filled_in(copy: Path) -> None:
    """A tensor too few or too many is named; transformers alone would only warn."""
    path = copy / "model.safetensors"
    state = load_file(path)
    state["layers.9.foreign"] = state.pop("layers.1.mlp.up_proj.weight")
    save_file(state, path, {"format": "pt"})
    with pytest.raises(DataError, match=r"missing layers\.1\.mlp\.up_proj\.weight; unexpected"):
        load_encoder(qwen_spec(), copy, CPU)


@pytest.mark.parametrize("damage", ["shape", "truncated"])
def test_damaged_weights_are_refused(copy: Path, damage: str) -> None:
    path = copy / "model.safetensors"
    if damage == "shape":
        state = load_file(path)
        save_file({**state, "norm.weight": torch.ones(D + 1)}, path, {"format": "pt"})
    else:
        path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(DataError, match=r"norm\.weight|cannot load a text encoder"):
        load_encoder(qwen_spec(), copy, CPU)


def test_pickled_weights_are_not_read(copy: Path) -> None:
    state = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    torch.save(state, copy / "pytorch_model.bin")
    with pytest.raises(DataError, match="cannot load a text encoder"):
        load_encoder(qwen_spec(), copy, CPU)


def test_features_that_are_not_numbers_are_refused(copy: Path) -> None:
    path = copy / "model.safetensors"
    state = load_file(path)
    state["layers.2.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(state, path, {"format": "pt"})
    with pytest.raises(DataError, match="NaN"):
        load_encoder(qwen_spec(), copy, CPU).encode(["a cat"])


def test_no_code_of_the_folder_runs(copy: Path, qwen: TextEncoder, tmp_path: Path) -> None:
    """Classes that the configuration names are ignored, and ours are used."""
    ran = tmp_path / "ran"
    (copy / "foreign.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass Model: ...\n")
    for name, kind in (("config.json", "AutoModel"), ("tokenizer_config.json", "AutoTokenizer")):
        content = json.loads((copy / name).read_text())
        content["auto_map"] = {
            kind: "foreign.Model" if kind == "AutoModel" else ["foreign.M", None]
        }
        (copy / name).write_text(json.dumps(content))
    features = load_encoder(qwen_spec(), copy, CPU).encode(["a cat"])
    assert torch.equal(features, qwen.encode(["a cat"]))
    assert not ran.exists()

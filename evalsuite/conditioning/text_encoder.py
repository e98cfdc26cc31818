"""Text encoders: a language model's last hidden states as the features of a prompt.

Legend: P prompts, T places for the denoiser, L tokens that the encoder reads, D width.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from evalsuite.artifacts.shard_index import read_json
from evalsuite.conditioning.encoder_files import (
    encoder_folders,
    import_transformers,
)
from evalsuite.conditioning.prompt_tokens import PaddedPrompt, PromptTokens, load_prompt_tokens
from evalsuite.config import TextEncoderSpec
from evalsuite.errors import DataError

_NETWORKS = {"qwen3": "Qwen3Model", "gemma2": "Gemma2Model"}
"""Classes of transformers: the decoder without its language-model head."""
_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


class TextEncoder:
    """A frozen language model with its tokenizer, ready to encode."""

    def __init__(self, spec: TextEncoderSpec, tokens: PromptTokens, network: nn.Module) -> None:
        self.tokens = tokens
        self._spec = spec
        self._network = network

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], negative: bool = False) -> Tensor:
        """Last hidden states after the final norm.

        Prompts are computed one by one, so that none changes the bits of another. Places of padding
        hold features too, and the denoisers attend to them without a mask.

        Args:
            prompts: texts; one that is too long is cut (`PromptTokens.too_long` says so before).
            negative: without the instruction, if the spec has one.

        Returns:
            [P,T,D] in the encoder's dtype, on its device.

        Raises:
            DataError: a feature is NaN or infinite.
        """
        rows = [self._features(self.tokens.padded(prompt, negative)) for prompt in prompts]
        features_PTD = torch.stack(rows)
        if not bool(torch.isfinite(features_PTD).all()):
            raise DataError("the text encoder's features hold NaN or infinite values")
        return features_PTD

    def _features(self, prompt: PaddedPrompt) -> Tensor:
        """[T,D]: the first place, and the last T - 1 of the L, which leaves an instruction out."""
        hidden_LD = self._hidden(prompt)
        kept = self._spec.max_length - 1
        return torch.cat((hidden_LD[:1], hidden_LD[len(hidden_LD) - kept :]))

    def _hidden(self, prompt: PaddedPrompt) -> Tensor:
        device = next(self._network.parameters()).device
        ids_1L = torch.tensor([prompt.ids], device=device)
        if prompt.num_tokens == 0:
            return self._hidden_of_padding(ids_1L)
        mask_1L = (torch.arange(len(prompt.ids), device=device) < prompt.num_tokens)[None].long()
        return self._run(ids_1L, mask_1L)

    def _hidden_of_padding(self, ids_1L: Tensor) -> Tensor:
        """The empty prompt: nothing but padding, so every row of the attention mask is empty.

        What attention gives there is left to its implementation, so it is fixed here, by no mask at
        all: `uniform` is the mean of the values, as eager attention and transformers before about
        4.53 have it; `masked` is zero, as SDPA has it since. Source: facts/pixnerd.md 9.
        """
        if self._spec.empty_prompt == "uniform":
            return self._run(ids_1L, None)
        with _attention_of_zeros(self._network):
            return self._run(ids_1L, None)

    def _run(self, ids_1L: Tensor, mask_1L: Tensor | None) -> Tensor:
        out = self._network(input_ids=ids_1L, attention_mask=mask_1L, use_cache=False)
        hidden_1LD: Tensor = out.last_hidden_state
        return hidden_1LD[0]


def load_encoder(spec: TextEncoderSpec, folder: Path, device: torch.device) -> TextEncoder:
    """Read an encoder from a local folder: safetensors only, no code from it, no network.

    Args:
        spec: what the encoder must be.
        folder: as on the hub, or a diffusers pipeline with `text_encoder` and `tokenizer`.
        device: where it computes.

    Raises:
        DataError: the folder holds another or an incomplete encoder.
        EnvironmentProblem: transformers is not installed.
    """
    where = encoder_folders(folder).network
    _check_config(spec, where)
    tokens = load_prompt_tokens(spec, folder)
    network = _load_network(spec, where)
    return TextEncoder(spec, tokens, network.eval().requires_grad_(False).to(device))


def _check_config(spec: TextEncoderSpec, folder: Path) -> None:
    config = read_json(folder / "config.json")
    found = (config.get("model_type"), config.get("hidden_size"))
    if found != (spec.kind, spec.width):
        raise DataError(
            f"{folder} holds a text encoder {found[0]} of width {found[1]},"
            f" not {spec.kind} of width {spec.width}"
        )


def _load_network(spec: TextEncoderSpec, folder: Path) -> nn.Module:
    library = import_transformers()
    with _silence(library):
        try:
            network, report = getattr(library, _NETWORKS[spec.kind]).from_pretrained(
                folder,
                attn_implementation=spec.attention,
                dtype=_DTYPES[spec.dtype],
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
        except (OSError, RuntimeError, ValueError, SafetensorError) as error:
            raise DataError(f"cannot load a text encoder from {folder}: {error}") from error
    _check_report(report, folder)
    assert isinstance(network, nn.Module)
    return network


def _check_report(report: dict[str, Any], folder: Path) -> None:
    """Refuse weights that transformers would have filled in or left out."""
    surplus = {key for key in report["unexpected_keys"] if not key.startswith("lm_head.")}
    faults = [f"missing {key}" for key in sorted(report["missing_keys"])]
    faults += [f"unexpected {key}" for key in sorted(surplus)]
    faults += [f"mis-shaped {key}" for key in sorted(str(k) for k in report["mismatched_keys"])]
    if faults:
        more = f" and {len(faults) - 4} more" if len(faults) > 4 else ""
        raise DataError(f"text encoder {folder}: {'; '.join(faults[:4])}{more}")


class _Loudness(NamedTuple):
    verbosity: int
    progress: bool


@contextlib.contextmanager
def _silence(library: Any) -> Iterator[None]:  # noqa: ANN401 - untyped library
    """Keep transformers' progress bars and load report off the streams; faults become errors."""
    log = library.utils.logging
    before = _Loudness(log.get_verbosity(), log.is_progress_bar_enabled())
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(before.verbosity)
        if before.progress:
            log.enable_progress_bar()


@contextlib.contextmanager
def _attention_of_zeros(network: nn.Module) -> Iterator[None]:
    """Let every attention give zeros to its output projection."""

    def zeros(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (torch.zeros_like(inputs[0]), *inputs[1:])

    outputs = [m for name, m in network.named_modules() if name.endswith("self_attn.o_proj")]
    assert outputs
    hooks = [module.register_forward_pre_hook(zeros) for module in outputs]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()

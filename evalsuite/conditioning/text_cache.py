"""Features of prompts on disk: each distinct prompt is encoded once, by whoever comes first."""

import contextlib
import fcntl
import gc
import hashlib
import json
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from evalsuite.artifacts.digests import cache_root
from evalsuite.artifacts.storage import Place, explained, open_storage
from evalsuite.conditioning.encoder_files import encoder_digest, library_versions
from evalsuite.conditioning.prompts import Prompt
from evalsuite.conditioning.text_encoder import load_encoder
from evalsuite.config import TextEncoderSpec, canonical_json
from evalsuite.errors import CorruptionError

_FORMAT = 1
"""Raised when this package computes or stores features in another way."""
_NAME = "features"


@dataclass(frozen=True)
class TextCache:
    """Features of one encoder below `root`, named by everything that decides their bits."""

    root: Place
    spec: TextEncoderSpec
    digest: str
    """`encoder_digest` of the folder that the plan names."""
    numerics_id: str
    """Device, architecture and library versions, as one digest."""

    def prepare(self, prompts: Iterable[Prompt], folder: Path, device: torch.device) -> None:
        """Encode what is not on disk yet, each distinct prompt once.

        The encoder is read only if something is missing, and is gone from `device` when this
        returns. Of several processes one encodes while the others wait, and a process that is
        killed leaves what it finished.

        Args:
            prompts: texts with their side; repetitions cost nothing.
            folder: the encoder, see `load_encoder`.
            device: where it computes.

        Raises:
            CorruptionError: the encoder has other bytes than it should.
            DataError: the encoder cannot be used.
            StorageError: the cache cannot be read or written.
        """
        paths = {prompt: self._path(prompt) for prompt in dict.fromkeys(prompts)}
        if self._missing(paths):
            with _locked(self._lock_path()):
                self._encode(self._missing(paths), folder, device)

    def take_over(self, other: "TextCache", prompts: Iterable[Prompt]) -> None:
        """Copy what another place has of these prompts; what is damaged there is left to `prepare`.

        Raises:
            StorageError: a place cannot be read or written.
        """
        if other.root == self.root:
            return
        ours, theirs = open_storage(self.root), open_storage(other.root)
        paths = {prompt: self._path(prompt) for prompt in prompts}
        if not self._missing(paths):
            return
        with _locked(self._lock_path()):  # one copies while the others wait
            for path in self._missing(paths):
                content = theirs.find(path)
                if content is None:
                    continue
                with contextlib.suppress(CorruptionError):
                    _decode(content, theirs.path(path))
                    ours.commit(path, content)

    def read(self, prompts: Sequence[Prompt]) -> list[Tensor]:
        """The features [T,D] of prompts that `prepare` was given, on the CPU in their own dtype.

        Raises:
            CorruptionError: a stored file has other bytes than it should.
            StorageError: the cache cannot be read.
        """
        storage, paths = open_storage(self.root), [self._path(prompt) for prompt in prompts]
        contents = storage.contents(paths)
        return [_decode(c, storage.path(p)) for c, p in zip(contents, paths, strict=True)]

    def _missing(self, paths: dict[Prompt, str]) -> dict[str, Prompt]:
        """One prompt for each file that is not there."""
        folder = self.digest[:16]
        there = {
            f"{folder}/{name}" for name in open_storage(self.root).names(folder, ".safetensors")
        }
        return {path: prompt for prompt, path in paths.items() if path not in there}

    def _lock_path(self) -> Path:
        """Of the folder, or, where a store has no locks, of this machine; commits are exclusive."""
        folder = self.root if isinstance(self.root, Path) else cache_root() / "locks"
        return folder / f"{self.digest[:16]}.lock"

    def _encode(self, wanted: dict[str, Prompt], folder: Path, device: torch.device) -> None:
        if not wanted:
            return
        if encoder_digest(folder) != self.digest:
            raise CorruptionError(f"text encoder {folder} has other bytes than the plan names")
        encoder = load_encoder(self.spec, folder, device)
        for path, prompt in wanted.items():
            features_TD = encoder.encode([prompt.text], prompt.negative)[0].cpu()
            said = {"prompt": prompt.text, "sha256": _tensor_sha256(features_TD)}
            open_storage(self.root).commit(path, save({_NAME: features_TD.contiguous()}, said))
        del encoder
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()

    def _path(self, prompt: Prompt) -> str:
        """Folder of the encoder, then the hash of all that decides the features' bits.

        A negative prompt differs only by its instruction, so without one both sides share a file.
        """
        spec = self.spec.model_dump(mode="json", exclude={"repo", "revision", "instruction"})
        key = {
            "format": _FORMAT,
            "encoder": self.digest,
            "spec": spec,
            "instruction": () if prompt.negative else self.spec.instruction,
            "numerics": self.numerics_id,
            "versions": library_versions(),
            "prompt": prompt.text,
        }
        name = hashlib.sha256(canonical_json(key)).hexdigest()
        return f"{self.digest[:16]}/{name}.safetensors"


def _decode(content: bytes, where: Place) -> Tensor:
    """The features in a file, when they are the ones that were written."""
    try:
        features_TD: Tensor = load(content)[_NAME]
        digest = _metadata_of(content).get("sha256")
    except (SafetensorError, KeyError) as error:
        raise _corrupted(where) from error
    if digest != _tensor_sha256(features_TD):
        raise _corrupted(where)
    return features_TD


def _metadata_of(content: bytes) -> dict[str, Any]:
    """The `__metadata__` of safetensors that were read: a length of 8 bytes, then JSON."""
    (length,) = struct.unpack_from("<Q", content)
    found: dict[str, Any] = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    return found


def _corrupted(path: Place) -> CorruptionError:
    return CorruptionError(f"{path} is corrupted: remove it, and it is computed again")


def _tensor_sha256(tensor: Tensor) -> str:
    """SHA-256 of a CPU tensor's bytes."""
    return hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that the kernel frees when its process ends."""
    with explained(path, "lock"):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("ab")
    with handle:
        with explained(path, "lock"):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield

"""`evalsuite.Scorer`: the numbers of `evalsuite run` inside a training job, without Ray.

Legend: N samples, H height, W width, D pooled width, P spatial width, K classes.
"""

import hashlib
import io
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from evalsuite.artifacts.features import FeatureTable
from evalsuite.artifacts.receipts import digest_of_pixels
from evalsuite.artifacts.records import Record
from evalsuite.errors import IncompleteError, UsageError
from evalsuite.features.aligned import AlignedExtractor, concatenate
from evalsuite.features.base import FeatureBatch
from evalsuite.pipeline.ranks import Ranks
from evalsuite.pipeline.sample_batches import SampleBatch, to_uint8
from evalsuite.pipeline.scorer_setup import (
    EveryRank,
    Facts,
    FirstRank,
    ScorerRequest,
    in_arguments,
    prepare_every,
    prepare_first,
)
from evalsuite.pipeline.scoring import SamplingFields, Scored, score, strata_of
from evalsuite.pipeline.undisturbed import undisturbed


@dataclass(frozen=True, eq=False)
class Scores:
    """What `Scorer.result` gives, the same on every rank.

    Attributes:
        records: one for each metric, as in a run's `results/`.
        influence: by metric, float64 [N]: what paired comparisons need; not every metric has it.
    """

    records: tuple[Record, ...]
    influence: Mapping[str, NDArray[np.float64]]

    def log(self, prefix: str = "") -> dict[str, float]:
        """For a logger: `fid`, and `fid_se` where there is a standard error; NaN if undefined."""
        values: dict[str, float] = {}
        for record in self.records:
            value = float("nan") if record.value is None else record.value
            values[prefix + record.metric] = value
            if record.standard_error is not None:
                values[f"{prefix}{record.metric}_se"] = record.standard_error
        return values


class Scorer:
    """Scores images that the ranks of a training job make, as often as they like.

    Every rank makes one, and calls `result` as often as the others. The process is left as it was
    found: random generators, threads, dtypes, gradients, autocast and the flags of TensorFloat-32.
    """

    def __init__(
        self,
        reference: str | Path | None,
        *,
        num_classes: int,
        num_samples: int = 10_000,
        size: tuple[int, int] | None = None,
        metrics: Sequence[str] | None = None,
        protocol: str | None = None,
        extractor: str | None = None,
        extractor_weights: str | None = None,
        labels: str = "modulo",
        first_seed: int = 0,
        batch_size: int | None = None,
        noise_shape: tuple[int, int, int] | None = None,
        uint8_rule: str = "half_up",
        device: torch.device | str | None = None,
        process_group: Any = None,  # noqa: ANN401 - torch's, which may not be built in
        timeout_s: float = 1800.0,
    ) -> None:
        """Load extractor and reference; the first rank alone reads and embeds the reference.

        Args:
            reference: registered name, or path of an NPZ, a sidecar or a folder.
            num_classes: labels are 0..num_classes-1; 1 without classes.
            num_samples: N.
            size: (H, W) of the images; by default what the extractor takes, or the size of the
                reference's images.
            metrics: names; the protocol's by default.
            protocol: a named protocol; the extractor's own by default.
            extractor: by default the one of the protocol, or of the reference.
            extractor_weights: a file, a folder, or `hub:OWNER/NAME[@REVISION]`; the pinned ones by
                default.
            labels: label rule, as `--labels`.
            first_seed: seed of sample 0.
            batch_size: samples of a batch; the extractor's by default.
            noise_shape: (C, H, W); (3, *size) by default.
            uint8_rule: by which float images become pixels.
            device: where features are computed; the current GPU by default, if there is one.
            process_group: the ranks; all of torch.distributed by default.
            timeout_s: how long ranks wait for one another.

        Raises:
            EvalsuiteError: whatever cannot be, on every rank.
        """
        request = ScorerRequest(
            reference=reference,
            num_classes=num_classes,
            num_samples=num_samples,
            size=size,
            metrics=metrics,
            protocol=protocol,
            extractor=extractor,
            extractor_weights=extractor_weights,
            labels=labels,
            first_seed=first_seed,
            batch_size=batch_size,
            noise_shape=noise_shape,
            uint8_rule=uint8_rule,
            device=_device(device),
        )
        self._ranks = Ranks(process_group, timeout_s)
        self._device, self._uint8_rule = request.device, uint8_rule
        self._first: FirstRank | None = None
        with undisturbed(self._device):
            content = self._ranks.from_first(lambda: self._prepare(request))
            self._facts = Facts.decode(content)
            self._every = self._ranks.together(lambda: self._prepare_here(request))
            same = self._ranks.numbers([self._every.same_numerics])
        self._mixed_numerics = [0] in same
        self._plan = self._every.plan
        self._batches = self._plan.batches_of(self._ranks.rank, self._ranks.count)
        self.reset()

    def _prepare(self, request: ScorerRequest) -> bytes:
        with in_arguments():
            self._first, facts = prepare_first(request)
        return facts.encode()

    def _prepare_here(self, request: ScorerRequest) -> EveryRank:
        with in_arguments():
            return prepare_every(request, self._facts)

    def reset(self) -> None:
        """Forget all images and features; reference and extractor stay."""
        self._aligned = AlignedExtractor(self._every.extractor)
        self._features: list[FeatureBatch] = []
        self._hashes: list[bytes] = []
        self._next = self._batches.start
        self._got_uint8 = False
        self._seconds = 0.0
        self._scores: Scores | None = None

    def batches(self) -> Iterator[SampleBatch]:
        """This rank's batches, after a `reset`: whole ones, perhaps none."""
        self.reset()
        return (self._batch(number) for number in self._batches)

    def _batch(self, number: int) -> SampleBatch:
        with undisturbed(self._device):
            return self._plan.batch(number)

    def add(self, batch: SampleBatch, images: Any) -> None:  # noqa: ANN401 - to_uint8 checks it
        """Take the images of a batch, in the order of `batches`, and compute their features.

        Args:
            batch: from `batches`.
            images: float [B,3,H,W] in [-1, 1], or uint8 [B,3,H,W] or [B,H,W,3]; B is the whole
                batch, also where num_samples ends before it.

        Raises:
            UsageError: another shape, dtype or batch.
            DataError: NaN or infinite pixels.
        """
        expected = self._next * self._plan.batch_size
        if batch.sample_index.start != expected or self._scores is not None:
            raise UsageError(
                f"the batch of sample {batch.sample_index.start} is not next: add each batch of"
                " Scorer.batches() once, in their order"
            )
        began = time.monotonic()
        with undisturbed(self._device):
            pixels = to_uint8(images, self._facts.size, batch.sample_index, self._uint8_rule)
            counted = pixels[: self._plan.num_samples - expected]
            self._keep(self._aligned.push(expected, counted))
        self._hashes += [hashlib.sha256(image.tobytes()).digest() for image in counted]
        self._got_uint8 |= torch.as_tensor(images).dtype == torch.uint8
        self._next += 1
        self._seconds += time.monotonic() - began

    def result(self) -> Scores:
        """Records of all metrics over the samples of all ranks; every rank must call it.

        Returns:
            The same on every rank, and again the same until `reset` or `batches`.

        Raises:
            IncompleteError: samples were not added; on every rank, which may add them.
            WorkerError: a rank ended, or did not come within `timeout_s`.
            DataError: features that are no numbers.
        """
        if self._scores is None:
            self._ranks.meet()
            with undisturbed(self._device):
                self._keep(self._aligned.flush())
                states = self._ranks.numbers([len(self._hashes), self._got_uint8])
                self._check_complete([added for added, _ in states])
                gathered = self._gathered([added for added, _ in states])
                rule = None if any(raw for _, raw in states) else self._uint8_rule
                content = self._ranks.from_first(lambda: _encoded(self._score(gathered, rule)))
            self._scores = _decoded(content)
        return self._scores

    def _keep(self, batches: Sequence[FeatureBatch]) -> None:
        """Parts that no metric needs are dropped."""
        for pool_ND, spatial_NP, probabilities_NK in batches:
            self._features.append(
                FeatureBatch(
                    pool_ND,
                    spatial_NP if "spatial" in self._facts.needs else None,
                    probabilities_NK if "probabilities" in self._facts.needs else None,
                )
            )

    def _check_complete(self, added: Sequence[int]) -> None:
        lacking = []
        for rank, count in enumerate(added):
            samples = self._plan.samples_of(rank, self._ranks.count)
            if count < len(samples):
                lacking.append(f"{samples.start + count}..{samples.stop - 1} of rank {rank}")
        if lacking:
            raise IncompleteError(
                f"samples {', '.join(lacking)} are missing: add the images of every batch of"
                " Scorer.batches() before result()"
            )

    def _gathered(self, counts: Sequence[int]) -> list[NDArray[Any] | None]:
        """Pooled and spatial features, probabilities and hashes of all ranks, on the first."""
        spec, count = self._every.spec, len(self._hashes)
        ours: list[NDArray[Any] | None] = list(
            concatenate(self._features) if count else (None, None, None)
        )
        hashes = np.frombuffer(b"".join(self._hashes), np.uint8).reshape(count, 32)
        self._features = [FeatureBatch(*ours)] if count else []  # type: ignore[arg-type]
        gathered: list[NDArray[Any] | None] = []
        for name, width, rows in zip(
            ("pool", "spatial", "probabilities"),
            (spec.pool_dim, spec.spatial_dim, spec.num_classes),
            ours,
            strict=True,
        ):
            wanted = name == "pool" or name in self._facts.needs
            empty = np.empty((0, width or 0), np.float32)
            gathered.append(
                self._ranks.gather(empty if rows is None else rows, counts) if wanted else None
            )
        return [*gathered, self._ranks.gather(hashes, counts)]

    def _score(self, gathered: list[NDArray[Any] | None], uint8_rule: str | None) -> list[Scored]:
        pool_ND, spatial_NP, probabilities_NK, hashes_N = gathered
        assert pool_ND is not None
        assert hashes_N is not None
        assert self._first is not None
        plan = self._plan
        rule = plan.rule.describe()
        return score(
            FeatureTable(0, pool_ND, spatial_NP, probabilities_NK),
            strata_of(rule, plan.labels(0, plan.num_samples)),
            self._first.measure,
            self._first.reference,
            SamplingFields(rule, uint8_rule, "lossless"),
            {
                "made_by": "evalsuite.Scorer",
                "first_seed": plan.first_seed,
                "num_classes": plan.num_classes,
                "size": list(self._facts.size),
                "noise_shape": list(plan.noise_shape),
                "batch_size": plan.batch_size,
                "numerics_id": self._facts.numerics_id,
                "mixed_numerics": self._mixed_numerics,
                "pixels_digest": digest_of_pixels([row.tobytes().hex() for row in hashes_N]),
            },
            {"evaluation_seconds": round(self._seconds, 3), "ranks": self._ranks.count},
        )


def _device(asked: torch.device | str | None) -> torch.device:
    if asked is not None:
        return torch.device(asked)
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def _encoded(scored: Sequence[Scored]) -> bytes:
    """Records and influence values, for the other ranks."""
    influence = {
        one.record.metric: one.influence_N for one in scored if one.influence_N is not None
    }
    buffer = io.BytesIO()
    records = json.dumps([one.record.model_dump(mode="json") for one in scored])
    text = np.frombuffer(records.encode(), np.uint8)
    np.savez(buffer, allow_pickle=False, records=text, **influence)
    return buffer.getvalue()


def _decoded(content: bytes) -> Scores:
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    records = json.loads(arrays.pop("records").tobytes())
    return Scores(tuple(Record.model_validate(record) for record in records), arrays)

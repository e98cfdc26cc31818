"""A run as sections of its report see it: each part is read once, when it is first asked for."""

import functools
from collections.abc import Sequence
from typing import Any

from evalsuite.artifacts.manifest import Manifest
from evalsuite.artifacts.receipts import NO_END, ReceiptHead, cover
from evalsuite.artifacts.records import Record
from evalsuite.artifacts.run_directory import IMAGES, RunDirectory, gaps_of
from evalsuite.config import Plan
from evalsuite.pipeline.comparison_inputs import records_of_run
from evalsuite.report.invocations import Invocation, invocations_of
from evalsuite.report.reference_view import ReferenceView, view_reference
from evalsuite.report.results import ResultGroup, result_groups
from evalsuite.report.taken_apart import TakenApart, take_apart
from evalsuite.report.verdicts import VerdictSet, verdict_sets
from evalsuite.sampling.describe import nfe_of

VERDICTS = "verdicts"
"""The section on verdicts, and the folder of its pictures."""
LONGEST_LIST = 40
"""Rows of a list that could grow without end: invocations, workers, repairs."""


class LoadedRun:
    """A run and what several sections need of it.

    Every property may raise CorruptionError: a receipt, a result or an attempt cannot be trusted.
    """

    def __init__(self, run: RunDirectory) -> None:
        """Take a run; nothing of it is read yet."""
        self.run = run

    @property
    def manifest(self) -> Manifest:
        """The run's manifest."""
        return self.run.manifest

    @property
    def plan(self) -> Plan:
        """What decides the run's pixels."""
        return self.run.plan

    @property
    def nfe(self) -> int | None:
        """Network evaluations per image; None for a model with its own sampler."""
        return nfe_of(self.run.plan)

    @functools.cached_property
    def receipts(self) -> Sequence[ReceiptHead]:
        """Committed shards of images."""
        return self.run.committed(IMAGES)

    @functools.cached_property
    def records(self) -> list[Record]:
        """All results, the largest number of samples first, in the order of the registry."""
        return records_of_run(self.run)

    @functools.cached_property
    def groups(self) -> list[ResultGroup]:
        """Results by number of samples, the largest number first."""
        return result_groups(self.run, self.records)

    @functools.cached_property
    def verdicts(self) -> list[VerdictSet]:
        """Scores of prompts with their verdicts, by the name of their file.

        Raises:
            DataError: verdicts are missing.
        """
        return verdict_sets(self.run, VERDICTS)

    @functools.cached_property
    def taken_apart(self) -> TakenApart | None:
        """A distance by sample and by class; None where no record has influence values."""
        return take_apart(self.run, self.records)

    @functools.cached_property
    def reference(self) -> ReferenceView | None:
        """What is at hand of the reference of the run's FID; None where nothing is."""
        return view_reference(self.run, self.records)

    @functools.cached_property
    def invocations(self) -> list[Invocation]:
        """Invocations that ended, in the order of their beginning."""
        return invocations_of(self.run)

    @property
    def names(self) -> tuple[str, ...] | None:
        """Names of the classes, or the prompts, by label; None where the run has none."""
        return self.manifest.prompts or self.manifest.class_names

    @property
    def num_asked(self) -> int:
        """The largest number of samples that an invocation asked for; 0 where none has ended."""
        return max((one.num_samples for one in self.invocations), default=0)

    @property
    def num_images(self) -> int:
        """Images that are committed."""
        return sum(part.stop - part.start for part in cover(self.receipts, 0, NO_END))

    @property
    def stop(self) -> int:
        """One past the last sample that is committed."""
        return max((receipt.stop for receipt in self.receipts), default=0)

    @property
    def gaps(self) -> list[tuple[int, int]]:
        """Ranges that were asked and are not committed."""
        if not self.num_asked:
            return []
        return gaps_of([(r.start, r.stop) for r in self.receipts], 0, self.num_asked)

    @property
    def numerics(self) -> dict[str, dict[str, Any]]:
        """What else decided bits, by its id; several where machines were mixed."""
        return {receipt.numerics_id: receipt.numerics for receipt in self.receipts}

    def name_of(self, label: int) -> str | None:
        """Of a class, or the text of a prompt; None where nobody knows it."""
        known = self.names is not None and label < len(self.names)
        return self.names[label] if known and self.names is not None else None

"""What a probe says: a finding, that there is none, or that it cannot tell."""

from collections.abc import Mapping
from typing import NamedTuple

ALARM = 5.0
"""A sign must be so many standard deviations from what clean sets show. docs/why.md counts how
often clean sets reach it."""
RECORDED = 100.0
"""Strength of what is written down and need not be inferred; nothing inferred is above it."""


class Finding(NamedTuple):
    """One cause that the samples, or what is recorded of them, speak for.

    Attributes:
        name: the cause, in a few words.
        strength: how many standard deviations the sign lies from what clean sets show, those of
            sampling and those between clean sets added up; at most `RECORDED`.
        evidence: one sentence with numbers.
        advice: what to do.
        effect: what it does to the Frechet distance against the reference, as far as it can be
            measured on these samples; positive when the fault makes it larger.
    """

    name: str
    strength: float
    evidence: str
    advice: str
    effect: float | None = None


class Clear(NamedTuple):
    """Looked, and found nothing; `seen` says what was measured."""

    seen: str


class CannotTell(NamedTuple):
    """Could not look; `reason` says what is missing."""

    reason: str


Outcome = Finding | Clear | CannotTell


class Diagnosis(NamedTuple):
    """What all probes say.

    Attributes:
        findings: by probe, strongest first.
        clear: by probe.
        untold: by probe.
    """

    findings: Mapping[str, Finding]
    clear: Mapping[str, Clear]
    untold: Mapping[str, CannotTell]


def ranked(outcomes: Mapping[str, Outcome]) -> Diagnosis:
    """Sort what probes said; of equal strength the earlier probe comes first."""
    found = {name: one for name, one in outcomes.items() if isinstance(one, Finding)}
    order = sorted(found, key=lambda name: -found[name].strength)
    return Diagnosis(
        {name: found[name] for name in order},
        {name: one for name, one in outcomes.items() if isinstance(one, Clear)},
        {name: one for name, one in outcomes.items() if isinstance(one, CannotTell)},
    )


def capped(z: float) -> float:
    """A strength that was inferred."""
    return min(z, RECORDED)

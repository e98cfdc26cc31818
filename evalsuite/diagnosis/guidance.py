"""Guidance as samples show it: beside twins, or by how sure a classifier is of them.

Legend: N samples, K classes.
"""

import numpy as np
from numpy.typing import NDArray

from evalsuite.diagnosis.findings import ALARM, CannotTell, Clear, Finding, Outcome, capped
from evalsuite.diagnosis.material import Material
from evalsuite.diagnosis.settings import expected_guidance
from evalsuite.diagnosis.twins import CLAIMED, OFF, Twins

_NEARER = 0.8
"""Twins by the other setting are at most this share as far, or neither is the setting."""
_BETWEEN_SETS = 0.1
"""Of mean entropies, in nats."""


def entropies(probabilities_NK: NDArray[np.float32]) -> NDArray[np.float64]:
    """Entropy of each row in nats: small where a classifier is sure."""
    p_NK = probabilities_NK.astype(np.float64)
    return -np.asarray((p_NK * np.log(np.maximum(p_NK, 1e-30))).sum(axis=1))


def probe_guidance_in_samples(material: Material) -> Outcome:
    """Whether samples look as if made without guidance, or with its interval reversed."""
    if material.plan is not None:
        return Clear("the plan says it, see guidance")
    if material.twins is not None:
        return _by_twins(material.twins)
    return _by_sureness(material)


def _by_twins(twins: Twins) -> Outcome:
    best, claimed = twins.fits[0], twins.nearest(CLAIMED)
    assert claimed is not None
    seen = (
        f"samples are {best.rms:.1f} levels from the same made again with guidance {best.guidance}"
        f" in {best.num_steps} steps, {claimed.rms:.1f} from those as {twins.preset.name} has it"
    )
    if best.guidance == CLAIMED or best.rms > _NEARER * claimed.rms:
        return Clear(seen)
    gain_T = np.log(claimed.rms_T + 0.1) - np.log(best.rms_T + 0.1)
    error = max(float(gain_T.std(ddof=1)) / np.sqrt(len(gain_T)), 0.02)
    z = float(np.median(gain_T)) / error
    if z < ALARM:
        return Clear(f"{seen}, which is not sure ({z:.1f} standard errors)")
    sampling = twins.preset.sampling
    assert sampling is not None
    name = "guidance off" if best.guidance == OFF else "guidance interval reversed"
    low, high = sampling.guidance_interval
    return Finding(
        name,
        capped(z),
        seen,
        f"make samples with guidance_scale {sampling.guidance_scale:g} between t = {low:g} and"
        f" {high:g}, where t = 0 is noise",
    )


def _by_sureness(material: Material) -> Outcome:
    """Guidance makes a classifier surer than it is of real images."""
    table, real, expected = material.features, material.reference, material.expected
    theirs = None if expected is None else expected_guidance(expected)
    if theirs is None or theirs.scale <= 1:
        return CannotTell(f"nobody claims guidance, and {material.why_no('twins')}")
    if table is None or table.probabilities_NK is None:
        return CannotTell(material.why_no("features"))
    if real is None or real.probabilities_MK is None:
        return CannotTell("how sure a classifier is of real images is not known without theirs")
    if material.is_far:
        return CannotTell(
            f"the samples are so far from {real.name} ({material.distance:.3f}) that something else"
            " than guidance must be wrong, and a classifier is unsure of them for that"
        )
    ours_N, theirs_M = entropies(table.probabilities_NK), entropies(real.probabilities_MK)
    error = np.hypot(ours_N.std() / np.sqrt(len(ours_N)), theirs_M.std() / np.sqrt(len(theirs_M)))
    z = float((ours_N.mean() - theirs_M.mean()) / np.hypot(error, _BETWEEN_SETS))
    seen = (
        f"the mean entropy of classes is {ours_N.mean():.3f} nats, of reference images"
        f" {theirs_M.mean():.3f}; guidance {theirs.scale:g} should make it smaller"
    )
    if z < ALARM:
        return Clear(seen)
    return Finding(
        "guidance off",
        capped(z),
        f"{seen} ({z:.1f} standard deviations)",
        f"make samples with guidance_scale {theirs.scale:g}",
    )

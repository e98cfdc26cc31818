"""The probes, one for each cause. A new one is a function, a line here and a row in docs/why.md."""

from collections.abc import Callable

from evalsuite.diagnosis.channels import probe_channels
from evalsuite.diagnosis.class_agreement import probe_labels
from evalsuite.diagnosis.duplicates import probe_duplicates
from evalsuite.diagnosis.findings import Diagnosis, Outcome, ranked
from evalsuite.diagnosis.guidance import probe_guidance_in_samples
from evalsuite.diagnosis.jpeg import probe_jpeg
from evalsuite.diagnosis.levels import probe_levels
from evalsuite.diagnosis.material import Material
from evalsuite.diagnosis.num_samples import probe_num_samples
from evalsuite.diagnosis.order import probe_order
from evalsuite.diagnosis.orientation import probe_orientation
from evalsuite.diagnosis.recorded import probe_record
from evalsuite.diagnosis.settings import (
    probe_ema,
    probe_guidance_setting,
    probe_interval_setting,
    probe_weights,
)
from evalsuite.diagnosis.spectrum import probe_resizing
from evalsuite.diagnosis.wrong_reference import probe_reference

PROBES: dict[str, Callable[[Material], Outcome]] = {
    "record": probe_record,
    "reference": probe_reference,
    "guidance": probe_guidance_setting,
    "guidance_interval": probe_interval_setting,
    "guidance_in_samples": probe_guidance_in_samples,
    "ema": probe_ema,
    "weights": probe_weights,
    "labels": probe_labels,
    "orientation": probe_orientation,
    "channels": probe_channels,
    "jpeg": probe_jpeg,
    "resizing": probe_resizing,
    "uint8": probe_levels,
    "duplicates": probe_duplicates,
    "class_order": probe_order,
    "num_samples": probe_num_samples,
}
"""By name, in the order in which equal evidence is ranked."""


def diagnose(material: Material) -> Diagnosis:
    """Ask every probe.

    Raises:
        DataError: features or moments that cannot be used.
    """
    return ranked({name: probe(material) for name, probe in PROBES.items()})

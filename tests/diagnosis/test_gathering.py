"""What is gathered of a run: the reference of its number, its features, its pixels."""

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from evalsuite.artifacts.records import Record
from evalsuite.artifacts.references import open_reference
from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.diagnosis.findings import Clear, Finding
from evalsuite.diagnosis.gathering import comparison_of, expected_of, gather, subject_of_run
from evalsuite.diagnosis.material import Material
from evalsuite.diagnosis.wrong_reference import probe_reference
from evalsuite.errors import DataError
from evalsuite.pipeline.analysis import chosen_images
from jobs.why.rates import CPU

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))
from run_builder import add_attempt, add_record, add_shard, make_plan, make_run


def run_of_digits(root: Path, count: int = 64) -> RunDirectory:
    """A run whose pixels are real digits of no model."""
    run = make_run(root, plan=make_plan(), num_images=0)
    real = open_reference("digits-16-heldout").images
    assert real is not None
    for start in range(0, count, 32):
        digits = chosen_images(real, range(start, start + 32))
        add_shard(run, start, start + 32, "all", given=digits)
    asked = {"num_samples": count, "part": None, "keep": "all", "shard_format": "parquet"}
    add_attempt(run, resolved=asked)
    return run


def material_of(run: RunDirectory, records: Sequence[Record] | None = None) -> Material:
    """As `evalsuite why RUN` gathers it, with records in this order."""
    subject, expected = subject_of_run(run), expected_of(None, run)
    if records is not None:
        subject = subject._replace(records=list(records))
    return gather(subject, expected, comparison_of(subject, expected, None, None, CPU), CPU)


def test_a_run_may_be_measured_against_a_second_reference(tmp_path: Path) -> None:
    """Whichever record comes first: only a run without the wanted one is to blame."""
    run = run_of_digits(tmp_path / "run")
    other = add_record(run, "fid", 64, 2.0, reference="digits-16-heldout")
    found = probe_reference(material_of(run))
    assert isinstance(found, Finding)
    assert "against digits-16-heldout" in found.evidence
    wanted = add_record(run, "fid", 64, 1.0, reference="digits-16-train")
    for records in ([other, wanted], [wanted, other]):
        material = material_of(run, records)
        assert isinstance(probe_reference(material), Clear)
        assert material.asked is not None
        assert material.asked.name == "digits-16-train"


def test_a_run_of_few_samples_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", num_images=32)
    add_attempt(run, resolved={"num_samples": 15})
    with pytest.raises(DataError, match="holds 15 images: nothing can be told of fewer than 16"):
        subject_of_run(run)

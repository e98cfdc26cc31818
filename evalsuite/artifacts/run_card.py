"""The README of a run directory: for people, and for `datasets.load_dataset(RUN)`."""

import json
from collections.abc import Iterable

from evalsuite.artifacts.receipts import NO_END, Ranged, ReceiptHead, cover, disjoint
from evalsuite.artifacts.run_directory import IMAGES, RunDirectory


def write_run_card(run: RunDirectory, sampler: str) -> None:
    """Write README.md, which names committed Parquet shards that hold each sample once at most."""
    run.storage.replace("README.md", render_run_card(run, sampler).encode())


def render_run_card(run: RunDirectory, sampler: str) -> str:
    """The text of README.md; `sampler` says in words how the images were made."""
    images, kept = run.committed(IMAGES), run.pixel_receipts()
    covered = _samples_of(cover(images, 0, NO_END))
    all_kept = _samples_of(cover(kept, 0, NO_END)) == covered
    listed = disjoint(one for one in (kept if all_kept else images) if _parquet_of(one))
    files = [path for one in listed for path in _parquet_of(one)]
    plan = run.plan
    made = "with RANDOM WEIGHTS: no result" if plan.has_random_weights else "made by evalsuite"
    front = ""
    if files:
        paths = "".join(f"      - {json.dumps(path)}\n" for path in files)
        front = (
            "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path:\n"
            f"{paths}---\n\n"
        )
    opened, left_out = _samples_of(listed), ""
    if files and opened != covered:
        left_out = (
            f"`load_dataset` opens {opened} of them: the shards of the others overlap those that\n"
            "are listed, or are no Parquet.\n\n"
        )
    return (
        f"{front}# Samples of {run.manifest.model}\n\n"
        f"{covered} images of plan `{run.manifest.plan_id}`, {made}.\n\n{left_out}"
        f"- {sampler}\n"
        f"- seeds from {plan.first_seed}, size {plan.size[0]}x{plan.size[1]}\n\n"
        "`manifest.json` holds the plan, `receipts/` what is committed (a file that no receipt\n"
        "names is garbage), `images/` and `features/` the shards, `results/` the metrics,\n"
        "`attempts/` one file for each invocation, `report/index.html` the report.\n"
        "`pixel_sha256` is the SHA-256 of an image's "
        "uint8 [H, W, 3] bytes. Open the images with `datasets.load_dataset(RUN_DIRECTORY)`.\n"
    )


def _samples_of(ranges: Iterable[Ranged]) -> int:
    """Of ranges that share none."""
    return sum(one.stop - one.start for one in ranges)


def _parquet_of(receipt: ReceiptHead) -> list[str]:
    return [file.path for file in receipt.files if file.path.endswith(".parquet")]

"""The README of a run directory: for people, and for `datasets.load_dataset(RUN)`."""

import json

from evalsuite.artifacts.receipts import NO_END, cover
from evalsuite.artifacts.run_directory import IMAGES, RunDirectory


def write_run_card(run: RunDirectory, sampler: str) -> None:
    """Write README.md naming exactly the committed Parquet shards, each sample once."""
    run.storage.replace("README.md", render_run_card(run, sampler).encode())


def render_run_card(run: RunDirectory, sampler: str) -> str:
    """The text of README.md; `sampler` says in words how the images were made."""
    shards, full = cover(run.committed(IMAGES), 0, NO_END), cover(run.pixel_receipts(), 0, NO_END)
    covered = sum(part.stop - part.start for part in shards)
    all_kept = sum(part.stop - part.start for part in full) == covered
    files = [
        file.path
        for part in (full if all_kept else shards)
        for file in part.receipt.files
        # a shard that overlaps another would give samples twice
        if file.path.endswith(".parquet") and part[1:] == (part.receipt.start, part.receipt.stop)
    ]
    plan = run.plan
    made = "with RANDOM WEIGHTS: no result" if plan.has_random_weights else "made by evalsuite"
    front = ""
    if files:
        listed = "".join(f"      - {json.dumps(path)}\n" for path in files)
        front = (
            "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path:\n"
            f"{listed}---\n\n"
        )
    return (
        f"{front}# Samples of {run.manifest.model}\n\n"
        f"{covered} images of plan `{run.manifest.plan_id}`, {made}.\n\n"
        f"- {sampler}\n"
        f"- seeds from {plan.first_seed}, size {plan.size[0]}x{plan.size[1]}\n\n"
        "`manifest.json` holds the plan, `receipts/` what is committed (a file that no receipt\n"
        "names is garbage), `images/` and `features/` the shards, `results/` the metrics,\n"
        "`attempts/` one file for each invocation, `report/index.html` the report.\n"
        "`pixel_sha256` is the SHA-256 of an image's "
        "uint8 [H, W, 3] bytes. Open the images with `datasets.load_dataset(RUN_DIRECTORY)`.\n"
    )

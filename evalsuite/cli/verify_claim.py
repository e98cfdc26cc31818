"""`evalsuite verify-claim`: is a published figure what comes out here?"""

import time
from typing import TYPE_CHECKING, Any

import click

from evalsuite.cli.generate import describe, generate_images, run_options, say_made
from evalsuite.cli.logging_to import logging_to
from evalsuite.cli.options import RememberedCommand
from evalsuite.cli.prepare import Prepared, confirm, prepare
from evalsuite.errors import DataError, IncompleteError, UsageError, printable

if TYPE_CHECKING:
    from evalsuite.artifacts.records import Record
    from evalsuite.config import Claim, ModelPreset
    from evalsuite.pipeline.claims import Reproduction


@click.command(
    "verify-claim",
    cls=RememberedCommand,
    epilog="Examples:\n\n\b\n  evalsuite verify-claim --model pixnerd-xl-256\n"
    "  evalsuite verify-claim --model pixeldit-xl-512 --num-samples 50000 --json claim.json",
)
@run_options
def verify_claim(**values: Any) -> None:  # noqa: ANN401 - click passes each option
    """Run a model's published settings, and say whether its published FID is in the claim's band.

    The band is the larger of 1.3 % of the claim and 1.96 sqrt(2) standard errors. The first claim
    of the preset decides; others are shown beside, and a claim of another checkpoint than the
    released one gets no verdict. Exit code 0: inside; 3: outside, or no verdict because number and
    claim must not be compared. Takes the options of `run`, goes on like it, and says which settings
    are not the published ones.
    """
    from evalsuite.artifacts.run_directory import RunDirectory
    from evalsuite.cli.output import metrics_tables, notice, write_json
    from evalsuite.config import claims_of, load_claims
    from evalsuite.pipeline.claims import beside_claim, class_counts
    from evalsuite.pipeline.coverage import missing_ranges
    from evalsuite.pipeline.evaluation import payload, score_run_by
    from evalsuite.report.html import write_report

    prepared = prepare(values, keep="grid", command="run")
    request = prepared.request
    preset = request.resolved.preset
    claims = [claim for claim in claims_of(preset, load_claims()) if claim.fid is not None]
    _check(prepared, claims)
    if values["dry_run"]:
        for claim in claims:
            click.echo(printable(f"claim {claim.fid:g}: {claim.model}: {claim.source}"))
        describe(prepared, values)
        return
    confirm(prepared, values)
    began = time.monotonic()
    with logging_to(prepared) as loggers:
        result = generate_images(prepared, loggers)
        say_made(result)
        run: RunDirectory = result.run
        count = request.demand.num_samples
        if missing_ranges(run, request.demand._replace(part=None)):
            raise IncompleteError(
                f"{run.root} is not complete yet: run the same command without --part when the"
                " other parts are done"
            )
        records: list[Record] = score_run_by(run, prepared.scoring.measures, count)
        loggers.records(records, count)
    write_report(run)
    counts = class_counts(run, count)
    found = [
        one
        for record in records
        for claim in claims
        if (one := beside_claim(record, run.plan, preset.name, claim, preset, counts)) is not None
    ]
    chosen = _chosen(found, claims[0])
    if values["json_path"]:
        seconds = {"seconds": {"total": round(time.monotonic() - began, 3)}}
        facts = {"run": str(run.root), "num_samples": count, **seconds}
        write_json(values["json_path"], payload(records, {**facts, **_as_json(found, chosen)}))
    metrics_tables(records)
    click.echo(f"run     {run.root}")
    _show(found, preset, run.plan)
    line = _answer(chosen)
    if chosen.inside is not True:
        raise DataError(line)
    click.echo(printable(line))
    notice("a claim inside its band is reproduced, not proved")


def _check(prepared: Prepared, claims: "list[Claim]") -> None:
    """Refuse what could never give a verdict, before a worker starts."""
    preset = prepared.request.resolved.preset
    if not claims:
        raise UsageError(
            f"{preset.name} has no published FID: `evalsuite models show NAME` lists what is known"
        )
    measures = prepared.scoring.measures
    if not measures:
        raise DataError(f"nothing would be scored: {prepared.scoring.reason}")
    if not any("fid" in measure.metrics for measure in measures):
        raise UsageError("--metrics: the verdict is about fid; add it")


def _chosen(found: "list[Reproduction]", claim: "Claim") -> "Reproduction":
    """The FID beside the first claim, by the record that is nearest to its protocol."""
    about = [one for one in found if one.claim is claim and one.record.metric == "fid"]
    return min(about, key=lambda one: len(one.obstacles))


def _show(found: "list[Reproduction]", preset: "ModelPreset", plan: Any) -> None:  # noqa: ANN401
    from evalsuite.pipeline.claims import changed_settings
    from evalsuite.report.summary import number

    for one in found:
        gap = "" if one.difference is None else f", difference {one.difference:+.4f}"
        gap += "" if one.in_errors is None else f" ({one.in_errors:+.1f} of its standard errors)"
        band = "" if one.band is None or one.obstacles else f", band ± {one.band:.4f}"
        verdict = f": {one.verdict}" if one.record.metric == "fid" else ""
        _say(
            f"{one.record.display} {number(one.record.value)}, claimed {one.claimed:g}"
            f"{gap}{band}{verdict}; {one.claim.model}: {one.claim.source}"
        )
        if one.record.metric == "fid":
            for text in (*one.obstacles, *one.differing):
                _say(f"  {text}")
            if one.unstated:
                _say(f"  not stated by the claim: {', '.join(one.unstated)}")
    for text in changed_settings(plan, preset):
        _say(f"not the published setting: {text}")
    if preset.settings_are != "published":
        _say(f"the settings of {preset.name} are {preset.settings_are}, not published as a whole")


def _say(line: str) -> None:
    click.echo(printable(line))


def _answer(one: "Reproduction") -> str:
    """One line with the verdict."""
    claim = f"the claim of {one.claimed:g} ({one.claim.source})"
    if one.inside is None:
        why = "; ".join(one.obstacles) or "there is no band"
        return f"no verdict on {claim}: {why}"
    assert one.difference is not None
    assert one.band is not None
    verb = "is inside" if one.inside else "is outside"
    text = f"{one.record.display} {one.record.value:.4f} {verb} the band of {claim}"
    text += f": {one.difference:+.4f}, the band is ± {one.band:.4f}"
    differs = f"; settings that differ: {'; '.join(one.differing)}" if one.differing else ""
    known = "" if one.claim.checkpoint else "; which checkpoint the claim is of is not known"
    return text + differs + known


def _as_json(found: "list[Reproduction]", chosen: "Reproduction") -> dict[str, Any]:
    claims = [
        {
            "metric": one.record.metric,
            "protocol_id": one.record.protocol_id,
            "value": one.record.value,
            "claimed": one.claimed,
            "difference": one.difference,
            "in_errors": one.in_errors,
            "band": one.band,
            "verdict": one.verdict,
            "no_verdict_because": list(one.obstacles),
            "settings_that_differ": list(one.differing),
            "settings_not_stated": list(one.unstated),
            "claim": one.claim.model,
            "checkpoint": one.claim.checkpoint,
            "source": one.claim.source,
        }
        for one in found
    ]
    return {"verdict": chosen.verdict, "claims": claims}

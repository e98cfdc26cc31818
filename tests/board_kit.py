"""Records by hand for boards: real plans and protocols of shipped models, values of our choice."""

import json
from pathlib import Path
from typing import Any

from evalsuite.artifacts.records import Protocol, Record
from evalsuite.config import ExtractorSpec, LabelRule, ModelPreset, Plan, ProtocolSpec, load_spec
from evalsuite.metrics.registry import METRICS
from evalsuite.sampling.describe import nfe_of

BAD_NAME = "<script>document.title = 'broken'</script>"


def plan_of(model: str, first_seed: int = 0, labels: LabelRule | None = None, **asked: Any) -> Plan:
    """A shipped model's plan with other sampling settings."""
    preset = load_spec(ModelPreset, model)
    assert preset.sampling is not None
    sampling = preset.sampling.model_validate(preset.sampling.model_dump() | asked)
    return Plan(
        numerics_version=1,
        family=preset.family,
        network=preset.network,
        weights_sha256="ab" * 32,
        ema=preset.weights.ema,
        num_classes=preset.num_classes,
        labels=labels or LabelRule(),
        classes=None,
        size=preset.size,
        sampling=sampling,
        first_seed=first_seed,
        batch_size=preset.batch_size,
        uint8_rule=preset.uint8_rule,
    )


def make_record(
    value: float | None,
    error: float | None = 0.01,
    *,
    metric: str = "fid",
    protocol: str = "adm",
    plan: Plan | None = None,
    model: str = "pixnerd-xl-256",
    gpu_hours: float = 1.5,
    **changes: Any,
) -> Record:
    """A record of 50,000 samples; `changes` are of its protocol, or of itself."""
    spec = load_spec(ProtocolSpec, protocol)
    extractor = load_spec(ExtractorSpec, spec.extractor or "inception-2015-12-05")
    plan = plan or plan_of(model)
    fields: dict[str, Any] = {
        "metric": metric,
        "num_samples": 50_000,
        "extractor": extractor.extractor_id,
        "extractor_sha256": extractor.weights.sha256 or "cd" * 32,
        "resize": "tf1-bilinear",
        "precision": "float32",
        "backend": "torch",
        "reference_sha256": ("ef" if protocol == "adm" else "12") * 32,
        "details": dict(METRICS[metric].fields(spec)),
        "label_rule": plan.labels.describe(),
        "uint8_rule": plan.uint8_rule,
        "codec": "lossless",
    }
    fields |= {key: changes.pop(key) for key in list(changes) if key in fields}
    found = Protocol(**fields)
    count = f"{found.num_samples // 1000}K"
    about: dict[str, Any] = {
        "metric": metric,
        "display": f"{METRICS[metric].display}-{count}",
        "better": METRICS[metric].better,
        "value": value,
        "standard_error": error,
        "extrapolated": None,
        "notes": (),
        "protocol": found,
        "protocol_id": found.protocol_id,
        "protocol_name": protocol,
        "reference": spec.references.get(f"{plan.size[0]}x{plan.size[1]}"),
        "samples": {
            "run": "run",
            "plan_id": plan.plan_id,
            "model": model,
            "plan": plan.model_dump(mode="json"),
            "nfe": nfe_of(plan),
        },
        "provenance": {},
        "cost": {"gpu_hours": gpu_hours},
        "created_at": "2026-01-31T12:00:00+00:00",
    }
    return Record.model_validate(about | changes).sealed()


def outside_record(value: float, error: float = 0.01, **changes: Any) -> Record:
    """A record of samples that someone else made: nothing is known of their making."""
    unknown = {"label_rule": None, "uint8_rule": None, "codec": None}
    samples = {"path": "theirs.npz", "pixels_digest": "00" * 32}
    return make_record(value, error, samples=samples, **unknown, **changes)


def write_records(path: Path, *records: Record) -> Path:
    """A file as `evaluate --json` writes it."""
    content = {"records": [record.model_dump(mode="json") for record in records]}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path

"""Metrics, as Prometheus reads them from a real Ray, and the dashboard that asks for them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from harness import REPOSITORY, environment

from evalsuite.runtime.observing.metrics import TAGS, exported_names

DASHBOARD = REPOSITORY / "cluster" / "grafana" / "evalsuite.json"
PROGRAM = Path(__file__).with_name("exporting.py")


@pytest.fixture(scope="module")
def scraped() -> dict[str, tuple[dict[str, str], float]]:
    """Labels and value of each sample; of a histogram's buckets the last one."""
    extra = {"RAY_metrics_report_interval_ms": "500", "PYTHONPATH": f"{REPOSITORY}"}
    done = subprocess.run(
        [sys.executable, str(PROGRAM)],
        env={**environment(private=True), **extra},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = {}
    for line in done.stderr.splitlines():
        match = re.fullmatch(r"(ray_evalsuite_\w+)\{(.*)\} (\S+)", line)
        if match is not None:
            labels = dict(re.findall(r'(\w+)="([^"]*)"', match[2]))
            found[match[1]] = (labels, float(match[3]))
    return found


@pytest.mark.ray
def test_prometheus_finds_the_truth_under_the_names_that_we_state(
    scraped: dict[str, tuple[dict[str, str], float]],
) -> None:
    assert scraped.keys() <= exported_names()
    values = {name.removeprefix("ray_evalsuite_"): value for name, (_, value) in scraped.items()}
    assert values.pop("images_per_second") > 0
    assert values.pop("gpu_hours") > 0
    assert values.pop("shard_seconds_sum") > 0
    assert values == {
        "images_done": 100,
        "images_total": 128,
        "workers_alive": 2,
        "workers_loading": 0,
        "energy_joules": 4500,
        "workers_lost_total": 1,
        "shards_committed_total": 2,
        "shards_retried_total": 1,
        "shards_computed_twice_total": 1,
        "shards_copied_total": 1,
        "compute_seconds_total": 590,
        "shard_seconds_bucket": 2,
        "shard_seconds_count": 2,
    }
    for labels, _ in scraped.values():
        assert {tag: labels[tag] for tag in TAGS} == {
            "run": "made",
            "plan": "7e4bf4c4286b",
            "invocation": "1f2e3d4c",
        }


def test_the_dashboard_asks_for_names_and_labels_that_are_exported() -> None:
    """Every name is asked for by some panel but the histogram's sum, which is not to be used."""
    board = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    queries += [v["query"]["query"] for v in board["templating"]["list"] if v["type"] == "query"]
    names = {name for query in queries for name in re.findall(r"\bray_\w+", query)}
    unused = {"ray_evalsuite_shard_seconds_sum", "ray_evalsuite_shard_seconds_count"}
    assert names == exported_names() - unused
    labels = {label for query in queries for label in re.findall(r"[{,]\s*(\w+)\s*=", query)}
    grouped = {
        g
        for query in queries
        for by in re.findall(r"by \(([^)]*)\)", query)
        for g in by.split(", ")
    }
    assert labels | grouped - {"le"} <= set(TAGS)
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)

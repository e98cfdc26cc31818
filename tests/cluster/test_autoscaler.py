"""A cluster that grows by Ray's autoscaler, whose machines are raylets on this one."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import NUM_SAMPLES, PLAN, Outcome, environment, pixel_hashes, run_cli
from heads import Head, free_ports, running_head

pytestmark = [pytest.mark.ray, pytest.mark.slow]
HEAD_ID, HEAD_TYPE = "f" * 51 + "00000", "ray.head.default"
"""As Ray's provider of such machines has it."""
PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
ASK = """
import json, sys, time
import ray
from evalsuite.errors import EvalsuiteError
from evalsuite.runtime.cluster import connected
from evalsuite.runtime.team import gather_team
from evalsuite.runtime.watch import current_nodes, has_autoscaler

said = {}
with connected(sys.argv[1], None, use_gpu=True) as cluster:
    said["grows"] = has_autoscaler()
    said["gpus"] = [cluster.num_gpus]
    try:
        gather_team(cluster, current_nodes(), None, "auto")
    except EvalsuiteError as error:
        said["auto"] = str(error)
    team = gather_team(cluster, current_nodes(), None, "cuda")
    deadline = time.monotonic() + 120
    while sum(n.gpus for n in current_nodes()) < 4 and time.monotonic() < deadline:
        team.request(3)
        time.sleep(1)
    said["gpus"].append(sum(n.gpus for n in current_nodes()))
    team.request(0)
print(json.dumps(said), file=sys.stderr)
"""


def autoscaling(ports: Any, path: Path) -> None:
    """A configuration with a head that computes nothing and two types of machines."""
    kinds = {
        HEAD_TYPE: {"resources": {"CPU": 0}, "max_workers": 0},
        "cpu_worker": {"resources": {"CPU": 1}, "min_workers": 0, "max_workers": 2},
        "gpu_worker": {"resources": {"CPU": 2, "GPU": 2}, "min_workers": 0, "max_workers": 2},
    }
    provider = {"type": "external", "module": PROVIDER, "launch_multiple": True}
    provider["head_node_id"] = HEAD_ID
    content = {
        "cluster_name": "small",
        "max_workers": 4,
        "idle_timeout_minutes": 10,
        "upscaling_speed": 1.0,
        "provider": {**provider, "gcs_address": f"127.0.0.1:{ports.gcs}"},
        "available_node_types": {k: {**v, "node_config": {}} for k, v in kinds.items()},
        "head_node_type": HEAD_TYPE,
        "auth": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
        "initialization_commands": [],
    }
    path.write_text(json.dumps(content))


@pytest.fixture(params=["1", "2"])
def head(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Head]:
    """With the first and the second version of the autoscaler."""
    ports, config = free_ports(), tmp_path / "autoscaling.json"
    autoscaling(ports, config)
    env = {
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": str(int(request.param == "2")),
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
        "RAY_NODE_TYPE_NAME": HEAD_TYPE,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
    }
    with running_head(ports, f"--autoscaling-config={config}", num_cpus=0, **env) as running:
        yield running


def test_workers_come_on_machines_that_were_asked_for(
    head: Head, tmp_path: Path, expected: dict[int, str]
) -> None:
    asked = ("generate", *PLAN, "--num-samples", NUM_SAMPLES, "--shard-size", 10, "--device", "cpu")
    outcome: Outcome = run_cli(
        *asked, "--address", head.gcs, "--num-workers", 2, "--output", "made", cwd=tmp_path
    )
    assert outcome.code == 0, outcome.stderr
    assert pixel_hashes(tmp_path / "made") == expected


def test_gpus_come_when_they_are_asked_for(head: Head, tmp_path: Path) -> None:
    """And nobody guesses from an empty cluster that there will be none."""
    done = subprocess.run(
        [sys.executable, "-c", ASK, head.gcs],
        cwd=tmp_path,
        env=environment(private=False, PYTHONPATH=os.pathsep.join(sys.path)),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stderr.splitlines()[-1])
    assert said["grows"] is True
    assert said["gpus"] == [0, 4]
    assert "say --device cuda to wait" in said["auto"]


def test_a_head_without_a_configuration_does_not_grow(tmp_path: Path) -> None:
    """Nor one whose nodes KubeRay has named, as it names those of a cluster of fixed size too."""
    program = (
        "import sys\n"
        "from evalsuite.runtime.cluster import connected\n"
        "from evalsuite.runtime.watch import has_autoscaler\n"
        "with connected(sys.argv[1], None, use_gpu=True):\n"
        "    print(has_autoscaler(), file=sys.stderr)\n"
    )
    by_kuberay = {"RAY_CLOUD_INSTANCE_ID": "head-pod", "RAY_NODE_TYPE_NAME": "headgroup"}
    for version, env in (("0", {}), ("1", {}), ("1", by_kuberay)):
        with running_head(free_ports(), RAY_enable_autoscaler_v2=version, **env) as running:
            done = subprocess.run(
                [sys.executable, "-c", program, running.gcs],
                cwd=tmp_path,
                env=environment(private=False, PYTHONPATH=os.pathsep.join(sys.path)),
                capture_output=True,
                text=True,
                timeout=100,
                check=False,
            )
        assert done.stderr.splitlines()[-1] == "False"

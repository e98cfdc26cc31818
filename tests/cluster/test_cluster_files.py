"""The files of `cluster/` against the schemas that are at hand."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml
from harness import REPOSITORY

CLUSTER = REPOSITORY / "cluster"
CLOUDS = sorted((CLUSTER / "cloud").glob("*.yaml"))
SCHEMA = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())


@pytest.mark.parametrize("path", CLOUDS, ids=lambda path: path.stem)
def test_a_cloud_cluster_fits_the_schema_of_ray_up(path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    jsonschema.validate(config, SCHEMA)
    assert config["head_node_type"] in config["available_node_types"]
    assert "--dashboard-host=127.0.0.1" in " ".join(config["head_start_ray_commands"])
    assert "RAY_AUTH_MODE=token" in " ".join(config["setup_commands"])


@pytest.mark.parametrize(
    ("cloud", "library"), [("aws", "boto3"), ("gcp", "google-api-python-client")]
)
def test_the_monitor_of_a_cloud_finds_its_provider_s_library(cloud: str, library: str) -> None:
    """In the environment that Ray runs in; Ray's default puts it where the image's pip does."""
    config = yaml.safe_load((CLUSTER / "cloud" / f"{cloud}.yaml").read_text())
    (line,) = [line for line in config["setup_commands"] if "uv pip install" in line]
    words = shlex.split(line)
    assert words[words.index("--python") + 1] == "~/venv/bin/python"
    assert library in words
    assert config["head_setup_commands"] == []
    defaults = Path(ray.__file__).parent / "autoscaler" / cloud / "defaults.yaml"
    (ours,) = yaml.safe_load(defaults.read_text())["head_setup_commands"]
    assert library in ours


def test_there_are_clouds_and_the_schema_knows_faults() -> None:
    assert len(CLOUDS) == 2
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**yaml.safe_load(CLOUDS[0].read_text()), "max_worker": 1}, SCHEMA)


@pytest.mark.parametrize("path", sorted(CLUSTER.rglob("*.sh")), ids=lambda path: path.stem)
def test_a_script_is_bash(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)
    assert path.stat().st_mode & 0o111


def test_no_file_holds_a_secret() -> None:
    for path in (p for p in CLUSTER.rglob("*") if p.is_file()):
        assert not re.search(r"AKIA[0-9A-Z]{16}|[0-9a-f]{64}|BEGIN .*PRIVATE", path.read_text())


def test_the_image_is_linted() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.is_file():
        pytest.skip("hadolint is not installed for this machine")
    done = subprocess.run([hadolint, CLUSTER / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


CRD = {
    "spec": {
        "group": "ray.io",
        "names": {"kind": "RayJob"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "apiVersion": {"type": "string"},
                            "kind": {"type": "string"},
                            "metadata": {"type": "object"},
                            "spec": {
                                "type": "object",
                                "required": ["entrypoint"],
                                "properties": {
                                    "entrypoint": {"type": "string"},
                                    "backoffLimit": {"type": "integer", "format": "int32"},
                                    "cpu": {"x-kubernetes-int-or-string": True},
                                    "any": {
                                        "type": "object",
                                        "x-kubernetes-preserve-unknown-fields": True,
                                    },
                                },
                            },
                        },
                    }
                },
            }
        ],
    }
}
"""A definition of the published shape, small."""


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ({"entrypoint": "a", "backoffLimit": 3, "cpu": "500m", "any": {"x": 1}}, None),
        ({"entrypoint": "a", "cpu": 1}, None),
        ({"entrypoint": "a", "backofLimit": 3}, "'backofLimit' was unexpected"),
        ({"entrypoint": "a", "backoffLimit": "3"}, "'3' is not of type 'integer'"),
        ({}, "'entrypoint' is a required property"),
    ],
)
def test_the_check_of_kuberay_finds_faults(spec: dict, fault: str | None, tmp_path: Path) -> None:
    crd, job = tmp_path / "crd.yaml", tmp_path / "job.yaml"
    crd.write_text(yaml.safe_dump(CRD))
    document = {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": {"name": "a"}}
    job.write_text(yaml.safe_dump({**document, "spec": spec}))
    program = [sys.executable, str(CLUSTER / "check_kuberay.py"), str(crd), str(job)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == (0 if fault is None else 1)
    assert (fault or "") in done.stderr


def test_the_kuberay_job_has_what_its_page_promises() -> None:
    (job,) = yaml.safe_load_all((CLUSTER / "kubernetes" / "rayjob.yaml").read_text())
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert job["spec"]["backoffLimit"] > 0
    (group,) = cluster["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert {"name": "runs", "mountPath": "/runs"} in container["volumeMounts"]

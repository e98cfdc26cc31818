"""Check the Kubernetes files of this folder against a published KubeRay CRD.

`make check-kuberay CRD=PATH`, where PATH is `ray.io_rayjobs.yaml` of a KubeRay release. Its schema
is OpenAPI v3 as Kubernetes has it: JSON Schema with a few keywords of its own. A field that the
schema does not have is a fault here, as it is for `kubectl apply --validate=strict`.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

FOLDER = Path(__file__).parent / "kubernetes"


def schemas_of(crd: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """The schema of each (apiVersion, kind) that a CustomResourceDefinition serves."""
    spec = crd["spec"]
    return {
        (f"{spec['group']}/{version['name']}", spec["names"]["kind"]): strict(
            version["schema"]["openAPIV3Schema"]
        )
        for version in spec["versions"]
        if version["served"]
    }


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """The same schema as JSON Schema in which unknown fields are faults."""
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    closed = {key: value for key, value in schema.items() if key not in {"format", "nullable"}}
    if "properties" in schema:
        closed["properties"] = {k: strict(v) for k, v in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            closed.setdefault("additionalProperties", False)
    if isinstance(schema.get("additionalProperties"), dict):
        closed["additionalProperties"] = strict(schema["additionalProperties"])
    if isinstance(schema.get("items"), dict):
        closed["items"] = strict(schema["items"])
    if schema.get("nullable") and isinstance(schema.get("type"), str):
        closed["type"] = [schema["type"], "null"]
    return closed


def faults_of(document: dict[str, Any], schema: dict[str, Any]) -> Iterator[str]:
    """One line for each place of a document that its schema does not take."""
    schema = {**schema, "properties": {**schema["properties"], "metadata": {"type": "object"}}}
    for fault in Draft202012Validator(schema).iter_errors(document):
        yield f"{fault.json_path}: {fault.message}"


def main() -> int:
    """Print the faults; the exit code is 1 where there are some, 2 where nothing was checked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("crd", type=Path, help="ray.io_rayjobs.yaml of a KubeRay release")
    parser.add_argument("files", type=Path, nargs="*", help="[default: cluster/kubernetes/*.yaml]")
    arguments = parser.parse_args()
    schemas = schemas_of(yaml.safe_load(arguments.crd.read_text(encoding="utf-8")))
    checked, faulty = 0, False
    for path in arguments.files or sorted(FOLDER.glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            kind = (document["apiVersion"], document["kind"])
            if kind not in schemas:
                continue
            checked += 1
            for line in faults_of(document, schemas[kind]):
                faulty = True
                print(f"{path}: {line}", file=sys.stderr)
    print(f"{checked} documents checked against {arguments.crd}")
    return 1 if faulty else 0 if checked else 2


if __name__ == "__main__":
    sys.exit(main())

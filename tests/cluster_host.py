"""A program that holds a Ray cluster until its standard input ends.

Its nodes are given as a list of what each has, `[{"num_cpus": 2, "num_gpus": 1}]` (no GPU need be
there), or as a number of nodes with one CPU each. A line `add` adds one like the first.
"""

import json
import os
import sys
import warnings
from pathlib import Path

OBJECT_STORE_BYTES = 80 * 2**20


def main() -> None:
    """Start the cluster, print its address, wait, and take it down."""
    warnings.simplefilter("ignore")
    given, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
    asked = given if isinstance(given, list) else [{"num_cpus": 1}] * given
    os.environ["RAY_TMPDIR"] = str(folder)  # its own, so that no other cluster's files are touched
    (folder / "ray").mkdir()
    from ray.cluster_utils import Cluster

    nodes = [{**one, "object_store_memory": OBJECT_STORE_BYTES} for one in asked]
    head = {**nodes[0], "include_dashboard": False, "include_log_monitor": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for node in nodes[1:]:
        cluster.add_node(**node)
    cluster.wait_for_nodes()
    print(cluster.address, flush=True)  # noqa: T201
    for line in sys.stdin:
        if line.strip() == "add":
            cluster.add_node(wait=False, **nodes[0])
            print("added", flush=True)  # noqa: T201
    cluster.shutdown()


if __name__ == "__main__":
    main()

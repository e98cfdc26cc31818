"""A program that holds a Ray cluster of N nodes with one CPU each until its standard input ends.

A line `add` on it adds a node.
"""

import os
import sys
import warnings
from pathlib import Path

OBJECT_STORE_BYTES = 80 * 2**20


def main() -> None:
    """Start the cluster, print its address, wait, and take it down."""
    warnings.simplefilter("ignore")
    num_nodes, folder = int(sys.argv[1]), Path(sys.argv[2])
    os.environ["RAY_TMPDIR"] = str(folder)  # its own, so that no other cluster's files are touched
    (folder / "ray").mkdir()
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": OBJECT_STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    for _ in range(num_nodes - 1):
        cluster.add_node(**node)
    cluster.wait_for_nodes()
    print(cluster.address, flush=True)  # noqa: T201
    for line in sys.stdin:
        if line.strip() == "add":
            cluster.add_node(wait=False, **node)
            print("added", flush=True)  # noqa: T201
    cluster.shutdown()


if __name__ == "__main__":
    main()

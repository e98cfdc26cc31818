"""A program that holds a Ray cluster of N nodes with one CPU each until its standard input ends."""

import sys
import warnings


def main() -> None:
    """Start the cluster, print its address, wait, and take it down."""
    warnings.simplefilter("ignore")
    from ray.cluster_utils import Cluster

    num_nodes, folder = int(sys.argv[1]), sys.argv[2]
    head = {
        "num_cpus": 1,
        "object_store_memory": 80 * 2**20,
        "include_dashboard": False,
        "temp_dir": folder,
        "node_ip_address": "127.0.0.1",
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(num_nodes - 1):
        cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    cluster.wait_for_nodes()
    print(cluster.address, flush=True)
    sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    main()

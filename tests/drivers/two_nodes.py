"""A Ray cluster of two nodes on this machine, for as long as its standard input is open.

Prints its address and that of its job server; a line on the standard input kills the second node, like a power cut.
"""

import sys

from ray.cluster_utils import Cluster

if __name__ == "__main__":
    here = {"object_store_memory": 100 * 2**20}
    head = {"num_cpus": 2, "num_gpus": 2, "include_dashboard": True, "dashboard_port": 0, **here}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    second = cluster.add_node(num_cpus=1, **here)
    cluster.wait_for_nodes()
    print(cluster.address, cluster.webui_url, flush=True)
    for _ in sys.stdin:
        cluster.remove_node(second, allow_graceful=False)
        print("killed", flush=True)
    cluster.shutdown()

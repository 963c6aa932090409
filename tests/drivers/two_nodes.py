"""A Ray cluster of two nodes on this machine, for as long as its standard input is open.

Each has a temporary folder of its own: in one that they share each clears what the other has unpacked of a job.

Prints its address and that of its job server; a line on the standard input kills the second node, like a power cut.
"""

import os
import sys
import tempfile
from typing import Any

os.environ |= {"RAY_DASHBOARD_STARTUP_TIMEOUT_S": "300", "RAY_worker_niceness": "0"}  # for busy machines

from ray._private import ray_constants, services
from ray.cluster_utils import Cluster

start = services.start_ray_process


def with_jobs_alone(command: list[str], kind: str, *more: Any, **named: Any) -> Any:
    """Of Ray's dashboard only what takes jobs (NodeHead says which node is the head): every part is a process."""
    if kind == ray_constants.PROCESS_TYPE_DASHBOARD:
        command = [*command, "--modules-to-load=UsageStatsHead,NodeHead,JobHead"]
    return start(command, kind, *more, **named)


def serve(folder: str) -> None:
    """Prints where the cluster is, and kills its second node when asked to. folder: for the files of that node."""
    here = {"object_store_memory": 100 * 2**20}
    free = {"dashboard_port": 0, "dashboard_agent_listen_port": 0}  # ports that nobody has
    head = {"num_cpus": 2, "num_gpus": 2, "include_dashboard": True, **free, **here}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    second = cluster.add_node(num_cpus=1, temp_dir=folder, **here)
    cluster.wait_for_nodes(timeout=300)
    print(cluster.address, cluster.webui_url, flush=True)
    for _ in sys.stdin:
        cluster.remove_node(second, allow_graceful=False)
        print("killed", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    services.start_ray_process = with_jobs_alone
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        serve(folder)

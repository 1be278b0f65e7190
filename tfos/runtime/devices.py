"""Which GPUs the process of a role sees. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tfos.spec.roles import Task
from tfos.spec.topology import Topology

VISIBLE = "CUDA_VISIBLE_DEVICES"
# of Spark's resources, as in spark.task.resource.gpu.amount
GPU = "gpu"


def visible(topology: Topology, task: Task, assigned: Sequence[str] | None) -> Mapping[str, str]:
    """Environment variables of the process of `task`.

    assigned: the addresses that Spark has assigned to its Spark task, which alone hides no other;
    None where it assigns none, and the process sees those that the executor sees.
    A process that computes nothing sees none: TensorFlow would take the memory of all.
    """
    if not topology.computes(task.role):
        return {VISIBLE: "-1"}
    return {} if assigned is None else {VISIBLE: ",".join(assigned)}

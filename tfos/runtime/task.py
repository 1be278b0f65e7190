"""The body of a Spark task of a role job: who supervises a role, and who only waits."""

from __future__ import annotations

import contextlib
import socket
import time

from tfos.errors import RegistryError
from tfos.fault.failures import Failure, FailureKind
from tfos.runtime import keys
from tfos.runtime.devices import GPU
from tfos.runtime.plan import AttemptPlan
from tfos.runtime.registry import Registry
from tfos.runtime.scratch import use_container
from tfos.runtime.supervisor import Supervisor
from tfos.spec.roles import Task
from tfos.spec.times import TIMES

_STAND_BY_SECS = 0.5


def supervise(plan: AttemptPlan, tasks: tuple[Task, ...]) -> list[tuple[str, str]]:
    """Supervises the task of this Spark task's partition.

    Returns [(task, why it ended)]. An executor that cannot take part is recorded as a failure of
    its task, where the registry can be reached, before the exception ends the stage.
    """
    from pyspark import TaskContext

    use_container()
    context = TaskContext.get()
    assert context is not None
    task = tasks[context.partitionId()]
    if context.attemptNumber() > 0:
        return [(str(task), _stand_by(plan, task))]
    gpu = context.resources().get(GPU)
    try:
        return [(str(task), Supervisor(plan, task, gpu and gpu.addresses).run())]
    except Exception as error:
        failure = Failure(
            task.role, task.index, socket.gethostname(), FailureKind.START, str(error),
            time=time.time(),
            attempt=plan.attempt,
        )  # fmt: skip
        # first wins: what the role itself had to say stays
        with contextlib.suppress(RegistryError), Registry(plan.registry) as registry:
            path = f"{keys.failures(plan.run_id, plan.attempt)}/{task}.0"
            registry.create(path, failure.as_json())
        raise


def _stand_by(plan: AttemptPlan, task: Task) -> str:
    """Of a task that Spark began again, since it lost one or is speculating, where the stage is no
    barrier: the driver decides who is next, in another attempt. Blocks until this one is over.

    To return earlier would have Spark kill the first one, which may live; to raise would end it.
    """
    with Registry(plan.registry) as registry:
        while not _is_over(plan, task, registry):
            time.sleep(_STAND_BY_SECS)
    return "Spark began it twice"


def _is_over(plan: AttemptPlan, task: Task, registry: Registry) -> bool:
    """Whether the attempt has ended, and the first one with it."""
    try:
        driver = registry.get(keys.driver(plan.run_id))
        if driver is not None and driver != plan.driver:
            return True
        # a driver's session may end, and begin again
        ends = driver is None or registry.get(keys.stop(plan.run_id, plan.attempt)) is not None
        return ends and registry.get(f"{keys.members(plan.run_id, plan.attempt)}/{task}") is None
    except RegistryError:
        return registry.lost_secs() > TIMES.outage_secs

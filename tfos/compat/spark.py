"""Private names of Spark."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

APPLICATION_MASTER = "org.apache.spark.deploy.yarn.ApplicationMaster"
CONF = "org.apache.spark.SparkConf"


def end_with_this_attempt(jvm: Any) -> None:
    """Has YARN start no further driver of this application when this one ends badly.

    jvm: of the driver, in cluster mode. The application master reads the limit as it ends, from a
    conf that is not the context's. Without it YARN starts drivers that find the run at its end, one
    after the other.
    """
    with contextlib.suppress(Exception):
        loader = jvm.java.lang.Thread.currentThread().getContextClassLoader()
        companion = loader.loadClass(f"{APPLICATION_MASTER}$")
        # by their types: the names are made by Scala's compiler
        master = _value(companion, APPLICATION_MASTER, companion.getField("MODULE$").get(None))
        conf = _value(loader.loadClass(APPLICATION_MASTER), CONF, master)
        conf.set("spark.yarn.maxAppAttempts", "1")


def answers(jvm: Any) -> bool:
    """Whether the driver's JVM is there. None, which is not this process's, counts as there."""
    from py4j.protocol import Py4JError

    try:
        return jvm is None or bool(jvm.java.lang.System.nanoTime())
    except (Py4JError, OSError):  # of the connection; any other error has a cause of its own
        return False


@contextlib.contextmanager
def own_python(session: Any) -> Iterator[None]:
    """What is sent to executors in the block runs, in a local session for which nobody named a
    Python, under this one.

    Spark would take the first python3 of PATH, which for a notebook's kernel, or in a virtual
    environment that is not activated, is another one, without what is installed here.
    """
    context = getattr(session, "_sc", None)  # None: of a Spark Connect server
    is_named = "PYSPARK_PYTHON" in os.environ
    if context is None or is_named or not _is_local_with(context, "python3"):
        yield
        return
    context.pythonExec = sys.executable
    try:
        yield
    finally:
        context.pythonExec = "python3"


def _is_local_with(context: Any, python: str) -> bool:
    return context.master.startswith("local") and context.pythonExec == python


def _value(kind: Any, wanted: str, owner: Any) -> Any:
    """What `owner`, of the class `kind`, has in its field of the type `wanted`."""
    field = next(f for f in kind.getDeclaredFields() if f.getType().getName() == wanted)
    field.setAccessible(True)
    return field.get(owner)


def splits_of_range(session: Any) -> int:
    """How many cores the executors of an application have all in all, asked of a Spark Connect
    server; of an application whose settings do not name a parallelism.

    A range has a partition for each, and its plan says how many. Runs no job.
    """
    plan = session.range(1)._explain_string()
    found = re.search(r"Range \(.*splits=(?:Some\()?(\d+)", plan)
    assert found is not None, plan
    return int(found[1])


def lost_task(context: Any, group: str) -> tuple[int, int, str] | None:
    """Stage, index and reason of a task of this job group that failed; None where none has.

    context: a SparkContext. Spark would begin it again elsewhere, and says nothing until the job
    ends.
    """
    tracker = context.statusTracker()
    for job in tracker.getJobIdsForGroup(group):
        info = tracker.getJobInfo(job)
        for stage in info.stageIds if info else ():
            seen = tracker.getStageInfo(stage)
            if seen is None or not seen.numFailedTasks:
                continue
            tasks = context._jsc.sc().statusStore().taskList(stage, seen.currentAttemptId, 1 << 20)
            for task in map(tasks.apply, range(tasks.size())):
                if task.status() == "FAILED":
                    reason = task.errorMessage()
                    return stage, task.index(), reason.get() if reason.isDefined() else ""
    return None


def give_back(context: Any) -> None:
    """Ends all executors of an application on YARN or Kubernetes, and asks for none; see ask_for().

    context: a SparkContext without dynamic allocation.
    """
    scala = context._jsc.sc()
    ask_for(context, 0)
    scala.killExecutors(scala.getExecutorIds())


def executors_of(context: Any) -> int:
    """How many executors an application on YARN or Kubernetes has."""
    return int(context._jsc.sc().getExecutorIds().size())


def ask_for(context: Any, count: int) -> None:
    """Asks for `count` executors of the conf's size, in place of what was asked for."""
    nobody = context._jvm.PythonUtils.toScalaMap({})
    context._jsc.sc().requestTotalExecutors(count, 0, nobody)


def knows_gpus(jvm: Any) -> bool:
    """Whether Hadoop's configuration on this machine has GPUs among the resources of YARN."""
    types = jvm.org.apache.hadoop.yarn.util.resource.ResourceUtils.getResourceTypes()
    return bool(types.containsKey("yarn.io/gpu"))

"""Whether containers are large enough for processes that Spark does not count. Pure.

YARN and Kubernetes end a container that is over its memory. Spark sizes it for the JVM and adds
spark.executor.memoryOverhead for all else, by default a tenth of the JVM's memory: TensorFlow alone
takes more than that.
"""

from __future__ import annotations

from collections.abc import Mapping

from tfos.spec.sizes import SERVER_MB, TASK_MB, megabytes

_LEAST_MB, _FACTOR = 384, 0.1


def what_is_too_small(conf: Mapping[str, str]) -> str | None:
    """A warning of containers that would be ended, and the remedy; None where they may do.

    conf: the Spark conf of an application on YARN or Kubernetes.
    """
    given = megabytes(conf.get("spark.executor.memoryOverhead", ""), "m")
    overhead = _overhead_mb(conf, given)
    tasks = int(conf.get("spark.executor.cores", 1)) // int(conf.get("spark.task.cpus", 1))
    needed = SERVER_MB + TASK_MB * max(1, tasks)
    if overhead >= needed:
        return None
    source = "" if given is not None else ", which is Spark's default"
    return (
        f"an executor's container has {overhead:.0f} MiB beyond its JVM{source}, and Python and"
        f" TensorFlow take {needed} MiB of it before there is a model; where containers over their"
        f" memory are ended, pass --conf spark.executor.memoryOverhead={_rounded(needed)}m, or more"
        " for a large model"
    )


def container_mb(conf: Mapping[str, str]) -> float:
    """The memory of an executor's container, MiB."""
    given = megabytes(conf.get("spark.executor.memoryOverhead", ""), "m")
    return _jvm_mb(conf) + _overhead_mb(conf, given)


def _jvm_mb(conf: Mapping[str, str]) -> float:
    return megabytes(conf.get("spark.executor.memory", "1g")) or 1024.0


def _overhead_mb(conf: Mapping[str, str], given: float | None) -> float:
    factor = float(conf.get("spark.executor.memoryOverheadFactor", _FACTOR))
    least = megabytes(conf.get("spark.executor.minMemoryOverhead", f"{_LEAST_MB}m"), "m")
    overhead = given if given is not None else max(least or _LEAST_MB, factor * _jvm_mb(conf))
    # Spark counts what it gives to Python apart
    return overhead + (megabytes(conf.get("spark.executor.pyspark.memory", "0"), "m") or 0.0)


def _rounded(megabytes: int) -> int:
    """With some room, to the next half gigabyte."""
    return -(-(megabytes + 256) // 512) * 512

"""Checks before anything starts: whether the cluster can hold the run as asked."""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tfos.compat.spark import ask_for, executors_of, give_back
from tfos.compat.texts import NO_MODULE
from tfos.driver import allocation
from tfos.driver.cluster import cluster_of
from tfos.errors import PreflightError
from tfos.fault.failures import error_message
from tfos.lake.run_directory import RunDirectory
from tfos.runtime import probe
from tfos.runtime.forking import CannotFork, ForkServer
from tfos.runtime.roles import all_tasks, role_jobs
from tfos.runtime.scratch import use_container
from tfos.spec.job import JobSpec

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# --overlap auto: slots for each role
_OVERLAP_SLOTS = 4
# how long executors are given back: drawn, as who waits for ours may do the same at the same time
_STEP_BACK_SECS = (5.0, 20.0)


def available_slots(spark: SparkSession) -> int:
    """How many tasks the cluster can run at the same time, with the executors it has now."""
    return cluster_of(spark).slots()


def is_dynamic(spark: SparkSession) -> bool:
    """Whether executors come when tasks wait for them: what there is now says nothing then."""
    cluster = cluster_of(spark)
    return allocation.is_dynamic(cluster.master, cluster.conf)


def has_free_slot(spark: SparkSession, spec: JobSpec) -> bool:
    """Whether there is a slot that no role takes, when all of them have theirs."""
    taken = sum(len(job.tasks) for job in role_jobs(spec) if not job.size)
    return available_slots(spark) > taken


def may_overlap(spark: SparkSession, spec: JobSpec) -> bool:
    """Whether a feed is to be made while the roles run. May wait, as check_slots does.

    Not where the strategy waits for all rows. Raises PreflightError where the user asks for it and
    no slot is left for it.
    """
    if spec.overlap == "on":
        check_slots(spark, spec, for_feed=1)
        return True
    if spec.overlap == "off" or spec.topology.waits_for_rows:
        return False
    # making it is not to become much slower for a training that may not be able to begin early
    return available_slots(spark) >= _OVERLAP_SLOTS * len(all_tasks(spec))


def describe_slots(spark: SparkSession, spec: JobSpec, for_feed: int = 0) -> str:
    """What was asked for, and how much there is, in a sentence."""
    if is_dynamic(spark):
        return f"the run asks for executors for {allocation.describe(spec)}"
    tasks = all_tasks(spec)
    count = Counter(task.role for task in sorted(tasks))
    count["for making the feed"] = for_feed
    parts = ", ".join(f"{n} {role}" for role, n in count.items() if n)
    return (
        f"the run asks for {len(tasks) + for_feed} slots ({parts}), the cluster at"
        f" {cluster_of(spark).master} has {available_slots(spark)}"
    )


def check_slots(
    spark: SparkSession,
    spec: JobSpec,
    for_feed: int = 0,
    tell: Callable[[str], None] = lambda line: None,
) -> None:
    """Waits for enough slots, at most --start-timeout-secs where executors may still be coming.

    Where only some have come after half of this time they are given back for a moment: two runs
    may wait for those of each other. for_feed: so many more than the roles have. Raises
    PreflightError when there are too few. Under dynamic allocation the roles themselves are waited
    for: see Attempt.
    """
    if is_dynamic(spark):
        return
    wanted = len(all_tasks(spec)) + for_feed
    cluster = cluster_of(spark)
    fixed = cluster.master.startswith("local") and not cluster.master.startswith("local-cluster")
    count = allocation.given_executors(cluster.master, cluster.conf)
    may_step_back = count is not None and cluster.jvm is not None
    begun = time.monotonic()
    while (there := available_slots(spark)) < wanted:
        waited = time.monotonic() - begun
        if fixed or waited >= spec.start_timeout_secs:
            raise PreflightError(_too_few(spark, spec, for_feed, wanted, fixed))
        lacks_executors = may_step_back and executors_of(spark.sparkContext) < (count or 0)
        if there and lacks_executors and waited > spec.start_timeout_secs / 2:
            may_step_back = False  # once
            secs = random.uniform(*_STEP_BACK_SECS)
            tell(
                f"{describe_slots(spark, spec, for_feed)} after {waited:.0f} s: its executors are"
                f" given back for {secs:.0f} s, as another run may wait for them as this one does"
            )
            try:
                give_back(spark.sparkContext)
                time.sleep(secs)
            finally:  # also in a notebook's session, whose user has had enough
                ask_for(spark.sparkContext, count or 0)
            begun += secs
        time.sleep(0.1)


def _too_few(spark: SparkSession, spec: JobSpec, for_feed: int, wanted: int, fixed: bool) -> str:
    remedy = (
        f"--master local[{wanted}]"
        if fixed
        else "more executors or cores (--num-executors, --executor-cores, or free"
        " some on the cluster), a longer --start-timeout-secs"
    )
    smaller = spec.topology.smaller
    fewer = f" or {smaller}" if smaller else ""
    if for_feed:
        fewer += " or --overlap off"
    return (
        f"too few slots: {describe_slots(spark, spec, for_feed)}"
        f"{'' if fixed else f' after {spec.start_timeout_secs:g} s'}; use {remedy}{fewer}"
    )


def check_executors(
    spark: SparkSession,
    spec: JobSpec,
    lake: RunDirectory,
    marker: str,
    server: ForkServer | None,
) -> None:
    """Runs a small job on every slot there is: it must see the lake's marker, have our versions,
    and limits that TensorFlow can start with. It begins `server`, which imports meanwhile.

    Raises PreflightError that names the host and what to change.
    """
    unsized = sum(len(job.tasks) for job in role_jobs(spec) if not job.size)
    slots = max(1, unsized, available_slots(spark))
    if not unsized:  # no role will run there
        server = None
    mine = probe.versions()

    def look(_: Any) -> list[probe.Seen]:
        use_container()
        if server is not None:
            with contextlib.suppress(CannotFork):  # the processes' logs will say it
                server.start()
        return [probe.look(lake, marker)]

    try:
        found = cluster_of(spark).tasks(slots).mapPartitions(look).collect()
    except Exception as error:
        if NO_MODULE in str(error):
            missing = str(error).partition(NO_MODULE)[2].splitlines()[0]
            raise PreflightError(
                f"the executors' Python has no module {missing}: install tfos there, or ship an"
                " environment with --archives env.tar.gz#env --conf"
                " spark.pyspark.python=env/bin/python; for a session made in Python, name the"
                " executors' Python before it: os.environ['PYSPARK_PYTHON'] = PATH"
            ) from error
        raise PreflightError(
            f"a first small job on the executors failed: {error_message(error)}; their Python must"
            f" be the driver's, {mine['Python']}: set it with --conf spark.pyspark.python=PATH or"
            " ship it with --archives"
        ) from error
    for seen in found:
        problem = probe.problem(seen, lake, marker, mine)
        if problem is not None:
            raise PreflightError(problem)

#!/usr/bin/env bash
# Ctrl-C leaves the Spark job running that the main thread waits for, though Spark's handler cancels all.
#
# Version: pyspark 4.3.0.
# Expected: SparkContext installs a handler of SIGINT that calls cancelAllJobs() and then raises
#   KeyboardInterrupt; so after Ctrl-C, in a script, a shell or a notebook, no job of it is left.
# Seen: KeyboardInterrupt is raised and the job goes on, with its slots. It is cancelled by the same call,
#   or by a job tag or group, made when the exception has been raised.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet pyspark==4.3.0
cd "$work"
cat > try.py <<'PY'
import os
import signal
import tempfile
import threading
import time

from pyspark.sql import SparkSession

spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
context = spark.sparkContext
print("handler of SIGINT:", signal.getsignal(signal.SIGINT).__qualname__)
mark = os.path.join(tempfile.mkdtemp(), "begun")


def task(_):
    open(mark, "w").close()
    time.sleep(120)


def press():
    while not os.path.exists(mark):
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGINT)


def jobs_left(secs):
    """How many jobs are under way, at the latest after so long."""
    deadline = time.monotonic() + secs
    while (jobs := context.statusTracker().getActiveJobsIds()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return len(jobs)


threading.Thread(target=press, daemon=True).start()
try:
    context.parallelize([0], 1).foreach(task)
    raise AssertionError("not interrupted")
except KeyboardInterrupt:
    print("KeyboardInterrupt")
interrupted = jobs_left(10)
context.cancelAllJobs()
cancelled = jobs_left(10)
print(f"jobs that run 10 s later: {interrupted}; after cancelAllJobs(): {cancelled}")
spark.stop()
assert (interrupted, cancelled) == (1, 0), "it is otherwise now"
PY
PYSPARK_PYTHON="$work/venv/bin/python" "$work/venv/bin/python" try.py 2>/dev/null

"""What TensorFlow and Spark say, where only their words tell what has happened. Pure.

Each with what it stands for: a version that says it in other words makes that wrong, and fails
tests/unit/test_compat.py.
"""

from __future__ import annotations

import re

# Spark: a traceback's last line, from a Python worker, inside an exception's text
RAISED_IN_PYTHON = re.compile(
    r"(?!org\.|java\.|scala\.|py4j\.)[A-Za-z_][\w.]*(Error|Exception|Exit|Interrupt): "
)
# lines of an exception's text that say nothing
EMPTY_WORDS = ("An error occurred while calling", "An exception was thrown", "at ")
# the number of the task that failed a barrier stage
FAILED_BARRIER_TASK = re.compile(r"ResultTask\(\d+, (\d+)\)")
# why an executor was lost, in the text of what that made fail: its container was too small
EXECUTOR_LOST = re.compile(r"ExecutorLostFailure \([^)]*\) Reason: (.*)")
# Spark on Kubernetes, of a container that was killed: that it was, or may have been, for its memory
KILLED_FOR_MEMORY = re.compile(r"OOMKilled|possible container OOM")
# Python, in a Spark task: what follows is the module's name
NO_MODULE = "No module named "

# TensorFlow: classes of exceptions that tell of another process's death, not of an error here
PEER_ERRORS = (
    "UnavailableError",
    "PSUnavailableError",
    "AbortedError",
    "CancelledError",
    "DeadlineExceededError",  # seen of a collective whose connection took packets one way only
)
# and words of exceptions of other classes that do
PEER_WORDS = re.compile(
    "context_id|remote_handle|Socket closed|Stream removed|failed to connect|Connection re"
    "|Collective ops is aborted|stopped sending heartbeats|Error reported from /job"
)
# also "aborted", though nobody died: user code that gives collectives other shapes each time
DISAGREE_WORDS = re.compile("mismatch in the collective")

"""Asks a real Kubernetes what the driver asks before there are pods: with a JVM, and no session.

Standard input has a line for each time, with settings of Spark as a JSON object; so has the output,
with the problem, or "none".
"""

from __future__ import annotations

import json
import sys

from pyspark import SparkConf, SparkContext

from tfos.driver.kubernetes import check_kubernetes
from tfos.errors import PreflightError

SparkContext._ensure_initialized()
for line in sys.stdin:
    conf = SparkConf().setMaster("k8s://https://127.0.0.1:6443")
    conf.setAll([*json.loads(line).items()])
    try:
        check_kubernetes(SparkContext._jvm, conf)
        print("none")
    except PreflightError as error:
        print(error)

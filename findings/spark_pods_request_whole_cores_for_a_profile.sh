#!/usr/bin/env bash
# On Kubernetes spark.kubernetes.executor.request.cores is for executors of the default resource profile alone.
#
# Version: pyspark 4.3.0, and the pods that its own code makes; no cluster is needed.
# Expected: with request.cores=500m every executor's pod requests half a processor of its node, as Spark's
#   documentation of the setting says of "each executor pod".
# Seen: the pod of an executor of a resource profile of its own requests as many processors as the profile
#   has cores, 4 here; it waits for a node with so many, where those of the default profile run.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet pyspark==4.3.0
cat > "$work/try.py" <<'PY'
from pyspark import SparkConf, SparkContext

SparkContext._ensure_initialized()
jvm = SparkContext._jvm
spark = jvm.org.apache.spark


def the_one(package, name):
    return getattr(getattr(package, name + "$"), "MODULE$")


conf = SparkConf().setMaster("k8s://https://api:6443").setAppName("app")
conf.set("spark.executor.cores", "4")
conf.set("spark.kubernetes.executor.request.cores", "500m")
# what a pod has to be told
conf.set("spark.kubernetes.container.image", "image").set("spark.app.id", "app")
conf.set("spark.driver.host", "driver").set("spark.driver.port", "7078")
conf.set("spark.kubernetes.executor.podNamePrefix", "app")


def requested(profile):
    nothing = jvm.scala.Option.apply(None)
    k8s = spark.deploy.k8s
    secret = the_one(spark.internal.config, "package").AUTH_SECRET_FILE()
    security = spark.SecurityManager(conf._jconf, nothing, secret)
    executor = k8s.KubernetesConf.createExecutorConf(conf._jconf, "1", "app", nothing, profile.id())
    step = k8s.features.BasicExecutorFeatureStep(executor, security, profile)
    pod = step.configurePod(k8s.SparkPod.initialPod())
    return pod.container().getResources().getRequests().get("cpu").toString()


resource = spark.resource
default = the_one(resource, "ResourceProfile").getOrCreateDefaultProfile(conf._jconf)
executor = resource.ExecutorResourceRequests().cores(4).memory("1g")
task = resource.TaskResourceRequests().cpus(4)
own = resource.ResourceProfileBuilder().require(executor).require(task).build()
print("requests of the default profile:", requested(default))
print("requests of a profile of its own:", requested(own))
PY
SPARK_LOCAL_IP=127.0.0.1 "$work/venv/bin/python" "$work/try.py" 2>"$work/log" >"$work/said" ||
  { cat "$work/log"; exit 1; }
cat "$work/said"
grep -q 'default profile: 500m$' "$work/said"
grep -q 'of its own: 4$' "$work/said"

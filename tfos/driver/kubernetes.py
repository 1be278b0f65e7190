"""Whether a namespace of Kubernetes can have a run's pods, asked before there are any.

Spark tells of a right that it lacks when it needs it, in the JVM's words; and of a quota or a
volume not at all: its pods wait.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tfos.compat.kubernetes import KubernetesApi, kubernetes_api
from tfos.driver.allocation import given_executors
from tfos.driver.containers import container_mb
from tfos.errors import PreflightError

_KEEPS_PODS = "spark.kubernetes.executor.deleteOnTermination"
_NO_CONFIGMAP = "spark.kubernetes.executor.disableConfigMap"
_CLAIM = re.compile(
    r"spark\.kubernetes\.executor\.volumes\.persistentVolumeClaim\.[^.]+"
    r"\.options\.claimName"
)
# of Spark's: a claim that it makes itself
_MADE = ("OnDemand", "SPARK_EXECUTOR_ID")
_LIMITED = {
    "pods": ("pods", "count/pods"),
    "cores": ("requests.cpu", "cpu"),
    "bytes of memory": ("requests.memory", "memory", "limits.memory"),
}


def check_kubernetes(jvm: Any, conf: Any) -> None:
    """Raises PreflightError for what the namespace refuses to have, or lacks.

    conf: the SparkConf of an application that has no session yet.
    """
    settings = dict(conf.getAll())
    with kubernetes_api(jvm, conf._jconf, settings) as api:
        if _asked(lambda: api.may("get", "pods"), None) is None:
            return  # nobody answers; Spark says so, and each question would wait for long
        for problem in (
            _rights(api, needed(settings)),
            _claims(api, settings),
            _quotas(api, settings),
        ):
            if problem is not None:
                raise PreflightError(problem)


def _asked(act: Callable[[], Any], otherwise: Any) -> Any:
    """What the API server answers, else `otherwise`: what may not be asked may be there."""
    from py4j.protocol import Py4JJavaError

    try:
        return act()
    except Py4JJavaError:
        return otherwise


def needed(conf: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """What Spark's driver does in its namespace: verbs by resource; rights.json grants all. Pure.

    As of Spark 4.3. What it tries and does without, such as to remove claims that nobody made, is
    not among it.
    """
    verbs: dict[str, tuple[str, ...]] = {
        "pods": ("create", "get", "list", "watch", "delete", "deletecollection")
    }
    if conf.get(_KEEPS_PODS, "true").lower() == "false":
        verbs["pods"] += ("patch",)  # it marks those that have ended
    if conf.get(_NO_CONFIGMAP, "false").lower() != "true":
        verbs["configmaps"] = ("create", "deletecollection")
    if conf.get("spark.kubernetes.submitInDriver") == "true":
        verbs["services"] = ("deletecollection",)  # its own, which the submission has made
    if any(_CLAIM.fullmatch(key) and _is_made(name) for key, name in conf.items()):
        verbs["persistentvolumeclaims"] = ("create", "list", "deletecollection")
    return verbs


def _is_made(claim: str) -> bool:
    return any(word in claim for word in _MADE)


def _rights(api: KubernetesApi, verbs: Mapping[str, Sequence[str]]) -> str | None:
    missing = {
        resource: [verb for verb in wanted if not _asked(lambda: api.may(verb, resource), True)]  # noqa: B023
        for resource, wanted in verbs.items()
    }
    words = what_is_missing(missing)
    if not words:
        return None
    account = _asked(api.account, "the driver's account")
    return (
        f"{account} may not {words} in the namespace {api.namespace}, and Spark's driver has to:"
        " grant it, as docs/kubernetes/rights.json does for an account tfos, or name another"
        " account or namespace with --conf"
        " spark.kubernetes.authenticate.driver.serviceAccountName=NAME,"
        " spark.kubernetes.namespace=NAME"
    )


def what_is_missing(missing: Mapping[str, Sequence[str]]) -> str:
    """Verbs that are not granted, by resource, in words; "" for none. Pure."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for resource, verbs in missing.items():
        if verbs:
            alike.setdefault(tuple(verbs), []).append(resource)
    return "; ".join(
        f"{', '.join(verbs)} {', '.join(resources)}" for verbs, resources in alike.items()
    )


def _claims(api: KubernetesApi, conf: Mapping[str, str]) -> str | None:
    for key, name in conf.items():
        if not _CLAIM.fullmatch(key) or _is_made(name):
            continue
        if not _asked(lambda: api.has_claim(name), True):  # noqa: B023
            return (
                f"there is no PersistentVolumeClaim {name} in the namespace {api.namespace}, which"
                f" {key} names: look at `kubectl get pvc -n {api.namespace}`, and make it or name"
                " another"
            )
    return None


def _quotas(api: KubernetesApi, conf: Mapping[str, str]) -> str | None:
    count = given_executors(conf["spark.master"], conf)
    if count is None:
        return None  # executors come as roles ask for them
    return what_exceeds(_asked(api.quotas, {}), asked_of(conf, count), api.namespace)


def asked_of(conf: Mapping[str, str], count: int) -> dict[str, float]:
    """What `count` executors of a conf ask of a quota, by the words of _LIMITED. Pure."""
    cores = conf.get("spark.kubernetes.executor.request.cores") or conf.get(
        "spark.executor.cores", "1"
    )
    number = float(cores[:-1]) / 1000 if cores.endswith("m") else float(cores)
    memory = container_mb(conf) * 2**20
    return {"pods": count, "cores": count * number, "bytes of memory": count * memory}


def what_exceeds(
    quotas: Mapping[str, Mapping[str, tuple[float, float]]],
    asked: Mapping[str, float],
    namespace: str,
) -> str | None:
    """The first quota under which not all executors can ever come, and what to do. Pure.

    What others use of it, such as executors of a driver that has died, may be free in a moment, and
    is waited for.

    quotas: see KubernetesApi.quotas().
    """
    for name, limits in quotas.items():
        for what, keys in _LIMITED.items():
            for key in keys:
                most, _ = limits.get(key, (float("inf"), 0.0))
                if asked[what] > most:
                    return (
                        f"the ResourceQuota {name} of the namespace {namespace} has"
                        f" {_amount(most, what)} ({key}), and the executors ask for"
                        f" {_amount(asked[what], what)}: ask for"
                        " fewer or smaller ones (--num-executors, --executor-cores,"
                        " --executor-memory, spark.executor.memoryOverhead), or have it raised"
                    )
    return None


def _amount(value: float, what: str) -> str:
    if what == "bytes of memory":
        return f"{value / 2**30:.1f} GiB of memory"
    return f"{value:g} {what}"

"""Kubernetes's API, asked through the client that Spark brings along, with Spark's account."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
_MODELS = "io.fabric8.kubernetes.api.model"


class KubernetesApi:
    """What the account of a driver may and finds in its namespace.

    client: fabric8's. Each call raises what the JVM does, as where the API server does not answer.
    """

    def __init__(self, jvm: Any, client: Any, namespace: str) -> None:
        self._jvm, self._client = jvm, client
        self.namespace = namespace

    def account(self) -> str:
        """Whom the API server takes us for, such as system:serviceaccount:default:tfos."""
        kind = self._kind("authentication.SelfSubjectReviewBuilder")
        review = self._client.resource(kind().build()).create()
        return str(review.getStatus().getUserInfo().getUsername())

    def may(self, verb: str, resource: str) -> bool:
        """Whether we may do so with resources of the core group in the namespace."""
        kind = self._kind("authorization.v1.SelfSubjectAccessReviewBuilder")
        asked = kind().withNewSpec().withNewResourceAttributes().withNamespace(self.namespace)
        asked = asked.withVerb(verb).withResource(resource)
        review = asked.endResourceAttributes().endSpec().build()
        reviews = self._client.authorization().v1().selfSubjectAccessReview()
        return bool(reviews.create(review).getStatus().getAllowed())

    def has_claim(self, name: str) -> bool:
        """Whether there is a PersistentVolumeClaim of that name."""
        claims = self._client.persistentVolumeClaims().inNamespace(self.namespace)
        return claims.withName(name).get() is not None

    def quotas(self) -> dict[str, dict[str, tuple[float, float]]]:
        """ResourceQuotas for all pods: by name and resource, how much there is and is used.

        In cores, bytes and numbers of objects.
        """
        found = {}
        for quota in self._client.resourceQuotas().inNamespace(self.namespace).list().getItems():
            spec, status = quota.getSpec(), quota.getStatus()
            if not spec.getScopes() and spec.getScopeSelector() is None:
                used = self._amounts(status.getUsed())
                hard = self._amounts(status.getHard())
                name = str(quota.getMetadata().getName())
                found[name] = {key: (most, used.get(key, 0.0)) for key, most in hard.items()}
        return found

    def _amounts(self, quantities: Any) -> dict[str, float]:
        """quantities: a Java map, or null."""
        in_units = self._kind("Quantity").getAmountInBytes
        items = quantities.items() if quantities else ()
        return {str(key): float(in_units(value)) for key, value in items}

    def _kind(self, name: str) -> Any:
        found = self._jvm
        for part in f"{_MODELS}.{name}".split("."):
            found = getattr(found, part)
        return found


@contextlib.contextmanager
def kubernetes_api(jvm: Any, conf: Any, settings: Mapping[str, str]) -> Iterator[KubernetesApi]:
    """The API as the driver of an application will ask it.

    conf: the application's SparkConf, as a JVM object; settings: what is in it.
    """
    package = jvm.org.apache.spark.deploy.k8s
    namespace = settings.get("spark.kubernetes.namespace", "default")
    in_cluster = settings.get("spark.kubernetes.submitInDriver") == "true"
    prefix, authority, server = "spark.kubernetes.authenticate", None, settings["spark.master"]
    if in_cluster:
        prefix += ".driver.mounted"
        authority = jvm.java.io.File(f"{_ACCOUNT}/ca.crt")
        server = settings.get("spark.kubernetes.driver.master", "https://kubernetes.default.svc")
    kinds = getattr(getattr(package, "SparkKubernetesClientFactory$ClientType$"), "MODULE$")
    option = jvm.scala.Option.apply
    client = package.SparkKubernetesClientFactory.createKubernetesClient(
        server.removeprefix("k8s://"), option(namespace), prefix, kinds.Driver(), conf,
        option(authority),
    )  # fmt: skip
    try:
        yield KubernetesApi(jvm, client, namespace)
    finally:
        client.close()

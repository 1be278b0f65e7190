"""The pod that pl_submit runs in: a driver in client mode is there, and Spark has to be told."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

# where Kubernetes mounts the account of a pod
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True)
class Pod:
    """name, namespace: Kubernetes's. address: where other pods reach it."""

    name: str
    namespace: str
    address: str

    @classmethod
    def here(cls) -> Pod | None:
        """The one of this process; None where it is in none, or in one without an account."""
        if "KUBERNETES_SERVICE_HOST" not in os.environ:
            return None
        try:
            namespace = (_ACCOUNT / "namespace").read_text().strip()
            name = socket.gethostname()
            return cls(name, namespace, socket.gethostbyname(name))
        except OSError:
            return None

    def settings(self, namespace: str | None) -> dict[str, str]:
        """Of Spark's: its executors' pods belong to this one, and go with it.

        namespace: the one that the conf names; in another one than this pod's they cannot.
        """
        if namespace not in (None, self.namespace):
            return {}
        return {
            "spark.kubernetes.driver.pod.name": self.name,
            "spark.kubernetes.namespace": self.namespace,
            "spark.driver.host": self.address,
            "spark.driver.bindAddress": self.address,
        }

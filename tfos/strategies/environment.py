"""Environment and imports of processes that run TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping

# of all strategies, so that runs of one session share a fork server
PRELOAD = ("tfos.strategies.train", "tfos.strategies.ps.coordinator")


def tensorflow_environment(inherited: Mapping[str, str]) -> Mapping[str, str]:
    return {
        # the supervisor holds the port: see tfos.runtime.ports
        "TF_GRPC_REUSE_PORT": "true",
        # a peer that is gone is noticed at once
        "GRPC_FAIL_FAST": "use_caller",
        "TF_CPP_MIN_LOG_LEVEL": inherited.get("TF_CPP_MIN_LOG_LEVEL", "1"),
        "KERAS_BACKEND": "tensorflow",
    }

"""Environment and imports of processes that run TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata

from tfos.errors import UsageError
from tfos.spec.options import spellings

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


def check_keras(strategy: str) -> None:
    """Raises UsageError where Keras is too old for a strategy that trains its models.

    Where it is not installed nothing is said: the import says it.
    """
    try:
        version = metadata.version("keras")
    except metadata.PackageNotFoundError:
        return
    if int(version.partition(".")[0]) < 3:
        raise UsageError(
            f"{spellings('strategy')} is {strategy!r}, whose ctx.fit() trains models of Keras 3;"
            f" here is Keras {version}, as TensorFlow before 2.16 has it: use --strategy"
            " between-graph with sessions or Estimator, or install tensorflow>=2.16"
        )

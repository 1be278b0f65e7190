"""Every name that tfos keeps in ZooKeeper.

/tfos/<run-id>/
  driver                              ephemeral: the driver lives
  feeds/<name>/<partition>            JSON list of shards, first writer wins
  attempts/<attempt>/
    members/<role>-<i>                ephemeral: {"host", "port", "pid"}
    ready/<role>-<i>                  ephemeral: its TensorFlow server is up
    failures/<role>-<i>               a Failure
    progress                          the chief's newest progress
    outcome                           what train() returned; the attempt succeeded
    stop                              the driver ends the attempt
"""

from __future__ import annotations

ROOT = "/tfos"


def run(run_id: str) -> str:
    return f"{ROOT}/{run_id}"


def driver(run_id: str) -> str:
    return f"{run(run_id)}/driver"


def feed(run_id: str, name: str) -> str:
    return f"{run(run_id)}/feeds/{name}"


def partition(run_id: str, name: str, partition: int) -> str:
    return f"{feed(run_id, name)}/{partition:06d}"


def attempt(run_id: str, attempt: int) -> str:
    return f"{run(run_id)}/attempts/{attempt}"


def members(run_id: str, number: int) -> str:
    return f"{attempt(run_id, number)}/members"


def ready(run_id: str, number: int) -> str:
    return f"{attempt(run_id, number)}/ready"


def failures(run_id: str, number: int) -> str:
    return f"{attempt(run_id, number)}/failures"


def progress(run_id: str, number: int) -> str:
    return f"{attempt(run_id, number)}/progress"


def outcome(run_id: str, number: int) -> str:
    return f"{attempt(run_id, number)}/outcome"


def stop(run_id: str, number: int) -> str:
    return f"{attempt(run_id, number)}/stop"

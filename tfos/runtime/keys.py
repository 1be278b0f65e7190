"""Names of what tfos keeps in ZooKeeper.

/tfos/<run-id>/
  lake                                the lake's URL; anyone may read it
  driver                              ephemeral: the driver lives; {"host", "pid", "since"}
  phase                               what the driver is at, before the roles and between them:
                                      {"text", "since"}; no text while it is the roles' turn
  kill                                somebody asks the driver to end the run; {"by"}
  feeds/<maker>/<name>/<partition>    JSON list of shards, first writer wins; a maker is one making
                                      of all feeds: tasks of a driver that was replaced have theirs
  attempts/<attempt>/
    lives                             {"lives": {"<role>-<i>": life}, "hung"}: which life each task
                                      is to be in, as the driver decided; 1, and one more for each
                                      restart
    members/<role>-<i>                ephemeral: {"host", "address", "pid", "life"}
    ready/<role>-<i>                  ephemeral: the life whose TensorFlow server is up
    failures/<role>-<i>.<life>        a Failure
    preempted/<role>-<i>.<life>       its process got SIGTERM: a checkpoint is wanted; or driver
    progress                          the chief's newest progress, with its "life"
    outcome                           what train() returned; the attempt succeeded
    stop                              the driver ends the attempt; "hang" when a role hung
"""

from __future__ import annotations

ROOT = "/tfos"


def run(run_id: str) -> str:
    return f"{ROOT}/{run_id}"


def driver(run_id: str) -> str:
    return f"{run(run_id)}/driver"


def lake(run_id: str) -> str:
    return f"{run(run_id)}/lake"


def phase(run_id: str) -> str:
    return f"{run(run_id)}/phase"


def kill(run_id: str) -> str:
    return f"{run(run_id)}/kill"


def feed(run_id: str, maker: str, name: str) -> str:
    return f"{run(run_id)}/feeds/{maker}/{name}"


def partition(run_id: str, maker: str, name: str, partition: int) -> str:
    return f"{feed(run_id, maker, name)}/{partition:06d}"


def attempt(run_id: str, attempt: int) -> str:
    return f"{run(run_id)}/attempts/{attempt}"


def lives(run_id: str, number: int) -> str:
    return f"{attempt(run_id, number)}/lives"


def members(run_id: str, number: int) -> str:
    return f"{attempt(run_id, number)}/members"


def ready(run_id: str, number: int) -> str:
    return f"{attempt(run_id, number)}/ready"


def failures(run_id: str, number: int) -> str:
    return f"{attempt(run_id, number)}/failures"


def preempted(run_id: str, number: int) -> str:
    return f"{attempt(run_id, number)}/preempted"


def progress(run_id: str, number: int) -> str:
    return f"{attempt(run_id, number)}/progress"


def outcome(run_id: str, number: int) -> str:
    return f"{attempt(run_id, number)}/outcome"


def stop(run_id: str, number: int) -> str:
    return f"{attempt(run_id, number)}/stop"

"""A run looked at, and ended, from outside: by whoever can read its directory in the lake.

result.json, written last, says how a run ended. While there is none, registry.json has the address
and the credential with which the run's nodes in ZooKeeper are read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from tfos.client.beats import ask_to_end, living
from tfos.client.status import (
    Status,
    checked_status,
    dead_status,
    finished_status,
    live_status,
    local_time,
    resume_command,
    unreachable_status,
)
from tfos.errors import LakeError, RegistryError, UsageError
from tfos.lake.run_directory import RunDirectory, checkpoint_path, run_ids
from tfos.runtime import keys
from tfos.runtime.nodes import AttemptNodes
from tfos.runtime.registry import Registry, RegistryAddress
from tfos.spec.result import Result

# the embedded server is gone with its run: most often nobody answers
_CONNECT_SECS = 3.0
_ANSWER_SECS = 15.0
# between the end of a driver's node and its result.json Spark is stopped
_ENDING_SECS = 3.0
CANCEL_SECS = 60.0
# without a driver for that long, a run has ended
_LEFT_SECS = 20.0
_POLL_SECS = 0.2
# between two looks at a result that may be far away, and at a driver, which take longer
_WAIT_POLL_SECS = 1.0
_ASK_SECS = 5.0
_RUNS_NAMED = 10


class _NotLive(RegistryError):
    """A run has no driver; says how that was seen."""


def check_known(lake: RunDirectory) -> None:
    """Raises LakeError when the run has not begun here, naming those there are."""
    if lake.is_there():
        return
    if lake.exists(""):
        raise LakeError(
            f"run {lake.run_id} in {lake.url} is still being checked before its start, or never got"
            " further: there is only its directory"
        )
    runs = run_ids(lake.url)
    more = f" and {len(runs) - _RUNS_NAMED} more" if len(runs) > _RUNS_NAMED else ""
    there = ", ".join(runs[:_RUNS_NAMED]) + more if runs else "no run at all"
    raise LakeError(
        f"there is no run {lake.run_id} in {lake.url}, which holds {there}; check the name of the"
        " run, and --lake, or the lake of tfos.Run"
    )


def read_status(lake: RunDirectory, zookeeper: str | None = None) -> Status:
    """The state of a run that is in the lake. zookeeper: overrides what the lake says of it."""
    evaluations = lake.evaluations()["evaluations"]
    newest = evaluations[-1] if evaluations else None
    return dataclasses.replace(_read_status(lake, zookeeper), evaluation=newest)


def _read_status(lake: RunDirectory, zookeeper: str | None) -> Status:
    if lake.is_being_checked():
        return checked_status(lake.run_id, lake.url, _secs_since(lake.checked_since()))
    result = lake.result()
    if result is None:
        try:
            with _live(lake, zookeeper) as nodes:
                return live_status(
                    lake.run_id,
                    lake.url,
                    _attempts(nodes, lake.run_id),
                    _newest_checkpoint(lake),
                    (nodes.get(keys.kill(lake.run_id)) or {}).get("by"),
                    _phase(nodes, lake.run_id),
                )
        except _NotLive as gone:
            why = str(gone)
        result = _await_result(lake, _ENDING_SECS)
        lease = living(lake) if result is None else None
        if lease is not None:
            pod = (lake.spec() or {}).get("pod", "")
            return unreachable_status(lake.run_id, lake.url, why, lease, pod)
        result = result or lake.result()
    checkpoint = _newest_checkpoint(lake)
    if result is None:
        return dead_status(lake.run_id, lake.url, why, _whereabouts(lake, zookeeper), checkpoint)
    return finished_status(lake.run_id, lake.url, result, checkpoint)


def cancel(
    lake: RunDirectory,
    zookeeper: str | None = None,
    secs: float = CANCEL_SECS,
    on_asked: Callable[[], None] = lambda: None,
) -> Result | None:
    """Asks the driver to end the run, and blocks until it has.

    on_asked: called when the driver has been asked. Returns the result, None when the driver left
    none. Raises RegistryError when the run is not live, or has not ended after `secs`.
    """
    run_id = lake.run_id
    result = lake.result()
    if result is not None:
        raise RegistryError(_not_running(lake, result))
    try:
        with _live(lake, zookeeper) as nodes:
            nodes.create(keys.kill(run_id), {"by": _me()})
            on_asked()
            result = _await_end(lake, nodes, secs)
    except _NotLive as gone:
        result = _await_result(lake, _ENDING_SECS)
        if result is not None:
            raise RegistryError(_not_running(lake, result)) from gone
        if living(lake) is None:
            raise RegistryError(
                f"run {run_id} is not running: {gone}; {how_to_continue(lake, zookeeper)}"
            ) from gone
        on_asked()
        result = ask_to_end(lake, _me(), secs)
        if result is None and lake.lease() is not None:
            raise RegistryError(_not_ended(run_id, secs)) from gone
    return None if result is None else Result.from_json(result)


def read_result(lake: RunDirectory) -> Result | None:
    """What came of the run; None while it has not ended, or when its driver left nothing."""
    result = lake.result()
    return None if result is None else Result.from_json(result)


def wait(lake: RunDirectory, zookeeper: str | None = None, secs: float | None = None) -> Result:
    """Blocks until the run has ended. secs: the longest to wait; None for as long as it takes.

    Raises TimeoutError after that, RegistryError when the run has had no driver for 20 s.
    """
    begun = alive = asked = time.monotonic()
    while (result := read_result(lake)) is None:
        now = time.monotonic()
        if secs is not None and now - begun >= secs:
            raise TimeoutError(f"run {lake.run_id} in {lake.url} has not ended within {secs:g} s")
        if now - asked >= _ASK_SECS:
            if has_driver(lake, zookeeper):
                alive = time.monotonic()
            asked = time.monotonic()
        if now - alive >= _LEFT_SECS:
            raise RegistryError(
                f"run {lake.run_id} has no result, and its driver is gone or cannot be reached from"
                f" here; {how_to_continue(lake, zookeeper)}"
            )
        time.sleep(_POLL_SECS if lake.is_local else _WAIT_POLL_SECS)
    return result


def how_to_continue(lake: RunDirectory, zookeeper: str | None = None) -> str:
    """What to do with a run whose driver left no result."""
    command = resume_command(lake.run_id, lake.url, _whereabouts(lake, zookeeper))
    return f"continue it with: {command}"


def has_driver(lake: RunDirectory, zookeeper: str | None = None) -> bool:
    """Whether the driver of a run lives, as far as that is seen here; that may take 20 s."""
    try:
        with _live(lake, zookeeper):
            return True
    except RegistryError:
        return living(lake) is not None


def _await_end(lake: RunDirectory, nodes: Registry, secs: float) -> dict[str, Any] | None:
    """Blocks until the run has ended; returns its result, None when its driver left none."""
    # a node that is gone may be made again, by a driver that has lost its session: see hold()
    is_gone = threading.Event()
    nodes.watch(
        keys.driver(lake.run_id),
        lambda value: is_gone.set() if value is None else is_gone.clear(),
    )
    begun = alive = time.monotonic()
    while (result := lake.result()) is None:
        now = time.monotonic()
        # the run's own server ends with the driver, and then asking it would only block
        if nodes.connected_secs() and not is_gone.is_set():
            alive = now
        if now - alive > _LEFT_SECS:
            return None
        if now - begun > secs:
            raise RegistryError(_not_ended(lake.run_id, secs))
        time.sleep(_POLL_SECS)
    return result


def _not_running(lake: RunDirectory, result: dict[str, Any]) -> str:
    at = lake.result_time()
    when = f" at {local_time(at)}" if at else ""
    return f"run {lake.run_id} is not running: it {result['status']}{when}"


def _not_ended(run_id: str, secs: float) -> str:
    return (
        f"run {run_id} has not ended within {secs:g} s of being asked to: look at"
        f" pl_submit status {run_id}, or end its Spark application"
    )


def _await_result(lake: RunDirectory, secs: float) -> dict[str, Any] | None:
    deadline = time.monotonic() + secs
    while (result := lake.result()) is None and time.monotonic() < deadline:
        time.sleep(_POLL_SECS)
    return result


@contextlib.contextmanager
def _live(lake: RunDirectory, zookeeper: str | None) -> Iterator[Registry]:
    """The registry of a run whose driver is there. Raises _NotLive when it is not."""
    if lake.is_being_checked():
        raise RegistryError(
            f"run {lake.run_id} is still being checked before its start, or its driver has died at"
            " that; where it was submitted, Ctrl-C ends it"
        )
    record = lake.registry() or {}
    hosts = zookeeper or record.get("hosts")
    if not hosts:
        raise _NotLive("its lake names no ZooKeeper, so its driver cannot be looked for")
    address = RegistryAddress(hosts, record.get("user", ""), record.get("password", ""))
    unreached = (
        f"no ZooKeeper server answers at {hosts}: its driver is gone,"
        " or cannot be reached from here"
    )
    if not _answers(hosts):
        raise _NotLive(unreached)
    try:
        nodes = Registry(address, _ANSWER_SECS)
    except RegistryError as error:  # another program has the port now
        raise _NotLive(unreached) from error
    with nodes:
        if nodes.get(keys.driver(lake.run_id)) is None:
            raise _NotLive(f"its driver is gone: it has no node in ZooKeeper at {hosts}")
        yield nodes


def _answers(hosts: str) -> bool:
    """Whether a server of the ensemble can be connected to, found out within seconds."""
    for server in hosts.partition("/")[0].split(","):
        try:
            place = RegistryAddress(server, "", "").first_server()
            socket.create_connection(place, _CONNECT_SECS).close()
            return True
        except (ValueError, OverflowError) as error:
            message = f"--zookeeper {hosts}: {error}; write host:port,host:port/chroot"
            raise UsageError(message) from error
        except OSError:
            continue
    return False


def _attempts(nodes: Registry, run_id: str) -> dict[int, AttemptNodes]:
    """What the registry holds of each attempt."""

    def values(path: str) -> dict[str, Any]:
        found = {name: nodes.get(f"{path}/{name}") for name in nodes.children(path)}
        return {name: value for name, value in found.items() if value is not None}

    numbers = [int(name) for name in nodes.children(f"{keys.run(run_id)}/attempts")]
    return {
        number: AttemptNodes(
            members=values(keys.members(run_id, number)),
            ready=values(keys.ready(run_id, number)),
            lives=(nodes.get(keys.lives(run_id, number)) or {}).get("lives", {}),
            failures=values(keys.failures(run_id, number)),
            progress=nodes.get(keys.progress(run_id, number)),
        )
        for number in numbers
    }


def _phase(nodes: Registry, run_id: str) -> dict[str, Any] | None:
    phase = nodes.get(keys.phase(run_id))
    return phase and {"text": phase["text"], "secs": _secs_since(phase["since"])}


def _secs_since(at: float | None) -> float | None:
    # clocks of two machines may differ a little
    return None if at is None else round(max(0.0, time.time() - at), 1)


def _newest_checkpoint(lake: RunDirectory) -> dict[str, Any] | None:
    for name in reversed(lake.checkpoints()):
        try:
            marker = lake.committed(checkpoint_path(name))
        except LakeError:  # just removed, as newer ones came; or damaged, and then of no use
            continue
        if marker is not None:
            at = lake.checkpoint_time(name)
            return {"step": marker["step"], "age_secs": round(time.time() - at, 1) if at else None}
    return None


def _whereabouts(lake: RunDirectory, zookeeper: str | None) -> list[str]:
    """The options of pl_submit that say on which cluster the run is, and with which ensemble."""
    spec = {**(lake.spec() or {}), **({"zookeeper": zookeeper} if zookeeper else {})}
    names = ("master", "deploy_mode", "zookeeper")
    given = [(name.replace("_", "-"), spec[name]) for name in names if spec.get(name)]
    return [word for name, value in given for word in (f"--{name}", str(value))]


def _me() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"

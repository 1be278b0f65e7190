"""Calls to ZooKeeper through kazoo: the connection, and how long an answer is waited for.

kazoo's own calls wait for a server for ever, and its KazooRetry counts a deadline only between
them. Its asynchronous ones, which do not wait, are therefore all that tfos uses.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

from kazoo.client import KazooClient
from kazoo.exceptions import (
    ConnectionClosedError,
    ConnectionLoss,
    KazooException,
    NoAuthError,
    OperationTimeoutError,
    SessionExpiredError,
)
from kazoo.handlers.threading import KazooTimeoutError
from kazoo.retry import KazooRetry

from tfos.errors import RegistryError
from tfos.spec.times import TIMES

# the connection broke, or the session: the call may have been carried out, or not
LOST = (ConnectionLoss, OperationTimeoutError, SessionExpiredError)
# between two tries: a rolling restart of an ensemble, or of our own server, takes a moment
_PAUSE_SECS = 0.1
_LONGEST_PAUSE_SECS = 1.0
T = TypeVar("T")
logging.getLogger("kazoo").setLevel(logging.ERROR)


def connect(hosts: str, timeout_secs: float, **options: Any) -> KazooClient:
    """A client with a session. options: of KazooClient. Raises RegistryError."""
    try:
        client = KazooClient(
            hosts=hosts,
            timeout=TIMES.session_secs,
            connection_retry=KazooRetry(max_tries=-1, delay=0.1, max_delay=2.0),
            **options,
        )
    except (ValueError, OSError) as error:
        raise RegistryError(
            f"--zookeeper {hosts}: {error}; write host:port,host:port/chroot"
        ) from error
    try:
        client.start(timeout=timeout_secs)
    except (KazooTimeoutError, KazooException, OSError) as error:
        close(client)
        raise RegistryError(
            f"no ZooKeeper server answers at {hosts} within {timeout_secs:g} s; check"
            " --zookeeper, or leave it out and the driver starts a server of its own"
        ) from error
    return client


def close(client: KazooClient) -> None:
    for step in (client.stop, client.close):
        with contextlib.suppress(KazooException):  # its thread is still trying to connect
            step()


class Patience:
    """Waits for asynchronous calls of kazoo, `secs` from now for all of them together.

    call: makes one, and returns its IAsyncResult. Raises KazooTimeoutError when the time is over.
    """

    def __init__(self, secs: float) -> None:
        self._deadline = time.monotonic() + secs

    def once(self, call: Callable[[], Any]) -> Any:
        """What the call brings."""
        return call().get(timeout=self._left())

    def __call__(self, call: Callable[[], Any]) -> Any:
        """What the call brings, which is made again when the connection or the session is lost."""
        pause = _PAUSE_SECS
        while True:
            try:
                return self.once(call)
            except ConnectionClosedError:  # by ourselves
                raise
            except LOST:
                time.sleep(min(pause, self._left()))
                pause = min(2 * pause, _LONGEST_PAUSE_SECS)

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise KazooTimeoutError
        return left


def ask(hosts: str, verb: str, path: str, act: Callable[[Patience], T], secs: float) -> T:
    """What `act` returns. Raises RegistryError when it fails, or takes longer than `secs`."""
    try:
        return act(Patience(secs))
    except KazooTimeoutError as error:
        raise RegistryError(
            f"ZooKeeper at {hosts} gave no answer for {secs:g} s (to {verb} {path}): see that it"
            " runs and can be reached from this machine, then continue the run with --resume"
        ) from error
    except NoAuthError as error:
        raise RegistryError(
            f"ZooKeeper at {hosts}: {path} belongs to another run of this name, whose credential is"
            " not in the lake: use another --run-id, or remove the node"
        ) from error
    except KazooException as error:
        raise RegistryError(
            f"ZooKeeper at {hosts}: cannot {verb} {path}: {type(error).__name__}: {error}"
        ) from error

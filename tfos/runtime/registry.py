"""The registry: what a run keeps in ZooKeeper, through kazoo.

Members are ephemeral nodes: they vanish with the process that made them. Every node carries a
digest ACL made for the run, so another user of the same ensemble can neither read nor change it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import Any, TypeVar

from kazoo.client import KazooClient, KazooState
from kazoo.exceptions import (
    ConnectionLoss,
    KazooException,
    NoAuthError,
    NodeExistsError,
    NoNodeError,
    SessionExpiredError,
)
from kazoo.handlers.threading import KazooTimeoutError
from kazoo.retry import KazooRetry
from kazoo.security import make_acl, make_digest_acl

from tfos.errors import RegistryError
from tfos.runtime import keys
from tfos.spec.times import TIMES

CONNECT_TIMEOUT_SECS = 10.0
# our own server is there: on a busy machine it may be slow
EMBEDDED_TIMEOUT_SECS = 60.0
T = TypeVar("T")
logging.getLogger("kazoo").setLevel(logging.ERROR)


@dataclass(frozen=True)
class RegistryAddress:
    """Where the registry is, and the run's own credential for it.

    hosts: "host:port,host:port/chroot".
    """

    hosts: str
    user: str
    password: str

    @classmethod
    def new(cls, hosts: str, run_id: str) -> RegistryAddress:
        return cls(hosts, run_id, secrets.token_hex(16))

    def first_server(self) -> tuple[str, int]:
        """Host and port of the first server of the ensemble."""
        server = self.hosts.partition("/")[0].split(",")[0]
        host, _, port = server.rpartition(":")
        return (host, int(port)) if host else (server, 2181)


def prepare(hosts: str, timeout_secs: float = CONNECT_TIMEOUT_SECS) -> None:
    """Makes the nodes that all runs share: the chroot of `hosts`, if it has one, and keys.ROOT.

    Called by the driver, before its first Registry. Raises RegistryError when no server answers.
    """
    servers, slash, chroot = hosts.partition("/")
    client = _connect(servers, timeout_secs)
    try:
        path = f"{slash}{chroot}{keys.ROOT}"
        _ask(hosts, "make", keys.ROOT, lambda: client.ensure_path(path), timeout_secs)
    finally:
        _close(client)


def read_public(hosts: str, path: str) -> Any:
    """The value of a node that was made by Registry.publish(), or None. Raises RegistryError."""
    client = _connect(hosts)

    def get() -> Any:
        try:
            return json.loads(client.get(path)[0])
        except NoNodeError:
            return None

    try:
        return _ask(hosts, "get", path, get, CONNECT_TIMEOUT_SECS)
    finally:
        _close(client)


def _connect(hosts: str, timeout_secs: float = CONNECT_TIMEOUT_SECS, **options: Any) -> KazooClient:
    try:
        client = KazooClient(
            hosts=hosts,
            timeout=TIMES.session_secs,
            connection_retry=KazooRetry(max_tries=-1, delay=0.1, max_delay=2.0),
            # a rolling restart of an ensemble, or of our own server, takes a moment
            command_retry=KazooRetry(
                max_tries=-1, delay=0.1, max_delay=1.0, deadline=TIMES.outage_secs
            ),
            **options,
        )
    except (ValueError, OSError) as error:
        raise RegistryError(
            f"--zookeeper {hosts}: {error}; write host:port,host:port/chroot"
        ) from error
    try:
        client.start(timeout=timeout_secs)
    except (KazooTimeoutError, KazooException, OSError) as error:
        _close(client)
        raise RegistryError(
            f"no ZooKeeper server answers at {hosts} within {timeout_secs:g} s; check"
            " --zookeeper, or leave it out and the driver starts a server of its own"
        ) from error
    return client


def _close(client: KazooClient) -> None:
    for step in (client.stop, client.close):
        with contextlib.suppress(KazooException):  # its thread is still trying to connect
            step()


def _ask(hosts: str, verb: str, path: str, act: Callable[[], T], secs: float) -> T:
    """What `act` returns. Raises RegistryError when it fails, or takes longer than `secs`.

    kazoo lets a call wait for a server for ever, and counts its retries' deadline only between the
    calls: so a thread waits, which goes with the client, and we for no longer than we want.
    """
    answer: Future[T] = Future()

    def wait() -> None:
        try:
            answer.set_result(act())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=wait, name=f"registry-{verb}", daemon=True).start()
    try:
        return answer.result(secs)
    except FutureTimeout as error:
        raise RegistryError(
            f"ZooKeeper at {hosts} gave no answer for {secs:g} s (to {verb} {path}): see that it"
            " runs and can be reached from this machine, then continue the run with --resume"
        ) from error
    except NoAuthError as error:
        raise RegistryError(
            f"ZooKeeper at {hosts}: {path} belongs to another run of this name, whose credential is"
            " not in the lake: use another --run-id, or remove the node"
        ) from error
    except (KazooException, KazooTimeoutError) as error:
        raise RegistryError(
            f"ZooKeeper at {hosts}: cannot {verb} {path}: {type(error).__name__}: {error}"
        ) from error


class Registry:
    """One session with ZooKeeper. Thread-safe; a context manager that ends the session.

    Callbacks run on kazoo's threads and must not block. Every method raises RegistryError, also
    when it had no answer for `answer_secs`, TIMES.outage_secs when not given.
    """

    def __init__(self, address: RegistryAddress, answer_secs: float | None = None) -> None:
        self.address = address
        self._answer_secs = TIMES.outage_secs if answer_secs is None else answer_secs
        self._acl = [make_digest_acl(address.user, address.password, all=True)]
        self._held: dict[str, Any] = {}
        self._holding = threading.RLock()
        self._claimed: set[str] = set()
        # who or what says that somebody else has the run now: a claimed node that was taken while
        # our session was lost, see also lose()
        self.taken = ""
        self._was_lost = False
        self._is_connected = True
        self._since = time.monotonic()
        self._client = _connect(
            address.hosts,
            default_acl=self._acl,
            auth_data=[("digest", f"{address.user}:{address.password}")],
        )
        self._client.add_listener(self._on_state)

    def _ask(self, verb: str, path: str, act: Callable[[], T]) -> T:
        return _ask(self.address.hosts, verb, path, act, self._answer_secs)

    def _on_state(self, state: str) -> None:
        """On kazoo's connection thread: it must not call the server itself."""
        self._was_lost |= state == KazooState.LOST
        is_connected = state == KazooState.CONNECTED
        if is_connected != self._is_connected:
            # in this order a reader in between takes us for out of touch, but not for long
            self._since = time.monotonic()
            self._is_connected = is_connected
        if is_connected and self._was_lost:
            self._was_lost = False
            self._client.handler.spawn(self._hold_again)

    def _hold_again(self) -> None:
        """Makes the nodes anew that went with a session that expired."""
        for path in list(self._held):
            with self._holding, contextlib.suppress(RegistryError):  # else with the next session
                self._hold(path, self._held[path])

    def connected_secs(self) -> float:
        """For how long this session has been in touch with a server; 0 while it is not."""
        return time.monotonic() - self._since if self._is_connected else 0.0

    def lost_secs(self) -> float:
        """For how long this session has been without a server; 0 while it has one."""
        return 0.0 if self._is_connected else time.monotonic() - self._since

    @property
    def is_settled(self) -> bool:
        """Whether we have been in touch long enough for others to be, too, if they live."""
        return self.connected_secs() > TIMES.settled_secs

    def hold(self, path: str, value: Any) -> None:
        """Keeps a node with a JSON value for as long as this Registry is open.

        It is ephemeral, and made again when the session was lost and another one began.
        """
        with self._holding:
            self._held[path] = value
            self._hold(path, value)

    def claim(self, path: str, value: Any) -> bool:
        """As hold(), where the node must be nobody else's; False when it is."""
        if not self.create(path, value, ephemeral=True):
            return False
        self._held[path] = value
        self._claimed.add(path)
        return True

    def _hold(self, path: str, value: Any) -> None:
        self._ask("set", path, lambda: self._put_ephemeral(path, value))

    def check_taken(self) -> None:
        """Raises RegistryError when somebody else has taken a node that was claimed here."""
        if self.taken:
            raise RegistryError(
                f"another driver has taken over the run ({self.taken}) while this one was cut off"
            )

    def lose(self, to: str) -> None:
        """Gives up what was claimed here: the lake says that it is another's."""
        self.taken = self.taken or to

    def _put_ephemeral(self, path: str, value: Any) -> None:
        data = json.dumps(value).encode()
        while not self._create(path, data, ephemeral=True):
            with contextlib.suppress(NoNodeError):
                there, stat = self._client.retry(self._client.get, path)
                session = self._client.client_id
                if session is None:  # the connection has just been lost
                    continue
                if stat.ephemeralOwner == session[0]:
                    self._client.retry(self._client.set, path, data)
                    return
                if path in self._claimed and json.loads(there) != value:
                    self.taken = path
                    return
                # of a session of ours that is over, but not for the server yet
                self._client.retry(self._client.delete, path)

    def create(self, path: str, value: Any = None, ephemeral: bool = False) -> bool:
        """Creates a node with a JSON value; False when it exists: the first writer wins."""
        data = json.dumps(value).encode()
        return self._ask("create", path, lambda: self._create(path, data, ephemeral))

    def _create(self, path: str, data: bytes, ephemeral: bool) -> bool:
        lost = False
        deadline = time.monotonic() + self._answer_secs
        while True:
            try:
                self._client.create(path, data, ephemeral=ephemeral, makepath=True)
                return True
            except (ConnectionLoss, SessionExpiredError):
                if time.monotonic() > deadline:  # nobody waits for it any more
                    raise
                lost = True  # it may have been made all the same
                self._client.retry(self._client.exists, path)
            except NodeExistsError:
                with contextlib.suppress(NoNodeError):  # it has just gone: try again
                    return lost and self._client.retry(self._client.get, path)[0] == data

    def put(self, path: str, value: Any) -> None:
        """Sets a node's JSON value, making it where needed."""
        data = json.dumps(value).encode()

        def put() -> None:
            if not self._create(path, data, ephemeral=False):
                self._client.retry(self._client.set, path, data)

        self._ask("set", path, put)

    def get(self, path: str) -> Any:
        """A node's value, or None when there is no node."""

        def get() -> Any:
            try:
                return json.loads(self._client.retry(self._client.get, path)[0])
            except NoNodeError:
                return None

        return self._ask("get", path, get)

    def children(self, path: str) -> list[str]:
        def children() -> list[str]:
            try:
                return sorted(self._client.retry(self._client.get_children, path))
            except NoNodeError:
                return []

        return self._ask("list", path, children)

    def sync(self, path: str) -> None:
        """What is read at `path` from now on has all that anybody has written there until now.

        A server of an ensemble may be behind the others otherwise.
        """
        self._ask("sync", path, lambda: self._client.retry(self._client.sync, path))

    def remove(self, path: str) -> None:
        """Removes a node and all below it; nothing happens when there is none."""

        def remove() -> None:
            with contextlib.suppress(NoNodeError):
                self._client.retry(self._client.delete, path, recursive=True)

        self._ask("remove", path, remove)

    def publish(self, path: str, value: Any) -> None:
        """Makes a node that anyone may read: see read_public()."""
        acl = [*self._acl, make_acl("world", "anyone", read=True)]

        def publish() -> None:
            self._client.retry(self._client.ensure_path, path.rpartition("/")[0])
            with contextlib.suppress(NodeExistsError):
                self._client.retry(self._client.create, path, json.dumps(value).encode(), acl=acl)

        self._ask("create", path, publish)

    def ensure(self, path: str) -> None:
        self._ask("make", path, lambda: self._client.retry(self._client.ensure_path, path))

    def watch(self, path: str, callback: Callable[[Any], None]) -> None:
        """Calls `callback(value)` now and at each change; value is None when there is no node."""

        def changed(data: bytes | None, stat: Any) -> None:
            callback(None if stat is None else json.loads(data or b"null"))

        self._ask("watch", path, lambda: self._client.DataWatch(path, changed))

    def watch_children(self, path: str, callback: Callable[[list[str]], None]) -> None:
        """Calls `callback(sorted names)` now and at each change, and makes the node if needed."""

        def changed(names: list[str]) -> None:  # a return value of False would end the watch
            callback(sorted(names))

        self.ensure(path)
        self._ask("watch", path, lambda: self._client.ChildrenWatch(path, changed))

    def close(self) -> None:
        _close(self._client)

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

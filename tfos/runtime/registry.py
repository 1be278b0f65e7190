"""The registry: what a run keeps in ZooKeeper, through kazoo.

Members are ephemeral nodes: they vanish with the process that made them. Every node carries a
digest ACL made for the run, so another user of the same ensemble can neither read nor change it.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from kazoo.client import KazooState
from kazoo.exceptions import ConnectionClosedError, NodeExistsError, NoNodeError
from kazoo.security import make_acl, make_digest_acl

from tfos.errors import RegistryError
from tfos.runtime import keys
from tfos.runtime.calls import LOST, Patience, ask, close, connect
from tfos.runtime.watches import Watch, watch_names, watch_value
from tfos.spec.times import TIMES

CONNECT_TIMEOUT_SECS = 10.0
# our own server is there: on a busy machine it may be slow
EMBEDDED_TIMEOUT_SECS = 60.0
T = TypeVar("T")


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

    @property
    def secret(self) -> str:
        """Of the run's processes among themselves, from which nobody learns the password."""
        return hmac.new(self.password.encode(), b"tfos processes", "sha256").hexdigest()

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
    client = connect(servers, timeout_secs)
    path = f"{slash}{chroot}{keys.ROOT}"

    def make(wait: Patience) -> None:
        wait(lambda: client.ensure_path_async(path))

    try:
        ask(hosts, "make", keys.ROOT, make, timeout_secs)
    finally:
        close(client)


def read_public(hosts: str, path: str) -> Any:
    """The value of a node that was made by Registry.publish(), or None. Raises RegistryError."""
    client = connect(hosts, CONNECT_TIMEOUT_SECS)

    def get(wait: Patience) -> Any:
        try:
            return _value(wait(lambda: client.get_async(path))[0])
        except NoNodeError:
            return None

    try:
        return ask(hosts, "get", path, get, CONNECT_TIMEOUT_SECS)
    finally:
        close(client)


def _value(data: bytes) -> Any:
    """What a node holds; one that was made for those below it holds nothing."""
    return json.loads(data or b"null")


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
        self._client = connect(
            address.hosts,
            CONNECT_TIMEOUT_SECS,
            default_acl=self._acl,
            auth_data=[("digest", f"{address.user}:{address.password}")],
        )
        self._client.add_listener(self._on_state)

    def _ask(self, verb: str, path: str, act: Callable[[Patience], T]) -> T:
        return ask(self.address.hosts, verb, path, act, self._answer_secs)

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
        self._ask("set", path, lambda wait: self._put_ephemeral(wait, path, value))

    def check_taken(self) -> None:
        """Raises RegistryError when somebody else has taken a node that was claimed here."""
        if self.taken:
            raise RegistryError(
                f"another driver has taken over the run ({self.taken}) while this one was cut off"
            )

    def lose(self, to: str) -> None:
        """Gives up what was claimed here: the lake says that it is another's."""
        self.taken = self.taken or to

    def _put_ephemeral(self, wait: Patience, path: str, value: Any) -> None:
        data = json.dumps(value).encode()
        while not self._create(wait, path, data, ephemeral=True):
            with contextlib.suppress(NoNodeError):
                there, stat = wait(lambda: self._client.get_async(path))
                session = self._client.client_id
                if session is None:  # the connection has just been lost
                    continue
                if stat.ephemeralOwner == session[0]:
                    wait(lambda: self._client.set_async(path, data))
                    return
                if path in self._claimed and json.loads(there) != value:
                    self.taken = path
                    return
                # of a session of ours that is over, but not for the server yet
                wait(lambda: self._client.delete_async(path))

    def create(self, path: str, value: Any = None, ephemeral: bool = False) -> bool:
        """Creates a node with a JSON value; False when it exists: the first writer wins."""
        data = json.dumps(value).encode()
        return self._ask("create", path, lambda wait: self._create(wait, path, data, ephemeral))

    def _create(self, wait: Patience, path: str, data: bytes, ephemeral: bool) -> bool:
        lost = False
        while True:
            try:
                wait.once(
                    lambda: self._client.create_async(
                        path, data, ephemeral=ephemeral, makepath=True
                    )
                )
                return True
            except ConnectionClosedError:
                raise
            except LOST:
                lost = True  # it may have been made all the same
                wait(lambda: self._client.exists_async(path))
            except NodeExistsError:
                with contextlib.suppress(NoNodeError):  # it has just gone: try again
                    return lost and wait(lambda: self._client.get_async(path))[0] == data

    def put(self, path: str, value: Any) -> None:
        """Sets a node's JSON value, making it where needed."""
        data = json.dumps(value).encode()

        def put(wait: Patience) -> None:
            if not self._create(wait, path, data, ephemeral=False):
                wait(lambda: self._client.set_async(path, data))

        self._ask("set", path, put)

    def get(self, path: str) -> Any:
        """A node's value, or None when there is no node."""

        def get(wait: Patience) -> Any:
            try:
                return _value(wait(lambda: self._client.get_async(path))[0])
            except NoNodeError:
                return None

        return self._ask("get", path, get)

    def children(self, path: str) -> list[str]:
        """The names of a node's children, sorted; [] when there is no node."""

        def children(wait: Patience) -> list[str]:
            try:
                return sorted(wait(lambda: self._client.get_children_async(path)))
            except NoNodeError:
                return []

        return self._ask("list", path, children)

    def sync(self, path: str) -> None:
        """What is read at `path` from now on has all that anybody has written there until now.

        A server of an ensemble may be behind the others otherwise.
        """
        self._ask("sync", path, lambda wait: wait(lambda: self._client.sync_async(path)))

    def remove(self, path: str) -> None:
        """Removes a node and all below it; nothing happens when there is none."""
        self._ask("remove", path, lambda wait: self._remove(wait, path))

    def _remove(self, wait: Patience, path: str) -> None:
        with contextlib.suppress(NoNodeError):
            for name in wait(lambda: self._client.get_children_async(path)):
                self._remove(wait, f"{path}/{name}")
            wait(lambda: self._client.delete_async(path))

    def publish(self, path: str, value: Any) -> None:
        """Makes a node that anyone may read: see read_public()."""
        acl = [*self._acl, make_acl("world", "anyone", read=True)]
        data = json.dumps(value).encode()

        def publish(wait: Patience) -> None:
            wait(lambda: self._client.ensure_path_async(path.rpartition("/")[0]))
            with contextlib.suppress(NodeExistsError):
                wait(lambda: self._client.create_async(path, data, acl=acl))

        self._ask("create", path, publish)

    def ensure(self, path: str) -> None:
        """Makes a node without a value, and those above it, where there is none."""
        self._ask("make", path, lambda wait: wait(lambda: self._client.ensure_path_async(path)))

    def watch(self, path: str, callback: Callable[[Any], None]) -> Watch:
        """Calls `callback(value)` now and at each change; value is None when there is no node."""
        return self.watch_all({path: callback})[0]

    def watch_all(self, callbacks: Mapping[str, Callable[[Any], None]]) -> list[Watch]:
        """As watch(), of many paths in the time of one."""
        return self._begin([watch_value(self._client, *each) for each in callbacks.items()])

    def watch_children(self, path: str, callback: Callable[[list[str]], None]) -> Watch:
        """Calls `callback(sorted names)` now and at each change, and makes the node if needed."""
        self.ensure(path)
        return self._begin([watch_names(self._client, path, callback)])[0]

    def _begin(self, watches: list[Watch]) -> list[Watch]:
        try:
            self.refresh(watches)
        except RegistryError:
            for watch in watches:
                watch.stop()
            raise
        return watches

    def refresh(self, watches: Sequence[Watch]) -> None:
        """What `watches` have told when this returns is no older than the call."""
        begun = {watch: watch.read() for watch in watches}

        def again(watch: Watch) -> Callable[[], Any]:
            return lambda: begun.pop(watch, None) or watch.read()

        def refresh(wait: Patience) -> None:
            for watch in watches:
                wait(again(watch))

        self._ask("watch", watches[0].path, refresh)

    def close(self) -> None:
        close(self._client)

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

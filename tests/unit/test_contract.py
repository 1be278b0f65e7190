"""The registry in memory that the simulation believes in does what ZooKeeper does.

Each test is one script for sessions of either; the last one is any script.
"""

from __future__ import annotations

import itertools

import pytest
from helpers import Nodes, Tree
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_registry import Calls, eventually, expire

from tfos.errors import RegistryError
from tfos.runtime.registry import Registry, RegistryAddress

pytest_plugins = ["zookeeper_fixtures"]
pytestmark = pytest.mark.serial
_numbers = itertools.count()


class Fake:
    """Sessions with one tree in memory."""

    root = "/tfos/contract"

    def __init__(self):
        self._tree = Tree()
        self._open = []

    def open(self):
        self._open.append(Nodes(self._tree))
        return self._open[-1]

    def expire(self, session):
        session.expire()
        session.rejoin()

    def close(self):
        for session in self._open:
            session.close()


class Real:
    """Sessions with ZooKeeper, below a root of their own."""

    def __init__(self, server):
        name = f"contract-{next(_numbers)}"
        self.root = f"/tfos/{name}"
        self._server = server
        self._address = RegistryAddress.new(server.hosts, name)
        self._open = []

    def open(self):
        self._open.append(Registry(self._address))
        return self._open[-1]

    def expire(self, session):
        expire(self._server, session)

    def close(self):
        for session in self._open:
            session.close()


@pytest.fixture(params=["fake", "real"])
def registry(request):
    made = Fake() if request.param == "fake" else Real(request.getfixturevalue("server"))
    yield made
    made.close()


@pytest.fixture
def root(registry):
    return registry.root


@pytest.fixture
def one(registry):
    return registry.open()


@pytest.fixture
def two(registry):
    return registry.open()


class TestNodes:
    def test_put_makes_replaces_and_is_seen_by_others(self, one, two, root):
        one.put(f"{root}/a/b", {"n": 1})
        assert two.get(f"{root}/a/b") == {"n": 1}
        two.put(f"{root}/a/b", [2])
        assert one.get(f"{root}/a/b") == [2]
        assert one.get(f"{root}/a") is None
        assert one.children(root) == ["a"]

    def test_nothing_there(self, one, root):
        assert one.get(f"{root}/a") is None
        assert one.children(f"{root}/a") == []
        one.remove(f"{root}/a")
        one.sync(f"{root}/a")

    def test_first_create_wins(self, one, two, root):
        assert one.create(f"{root}/a", 1) is True
        assert two.create(f"{root}/a", 2) is False
        assert one.create(f"{root}/a", 3, ephemeral=True) is False
        assert one.get(f"{root}/a") == 1

    def test_first_publication_wins(self, one, two, root):
        one.publish(f"{root}/a/b", 1)
        two.publish(f"{root}/a/b", 2)
        assert two.get(f"{root}/a/b") == 1

    def test_children_are_sorted_and_direct(self, one, root):
        for path in ("c", "a/deep", "b"):
            one.create(f"{root}/{path}")
        assert one.children(root) == ["a", "b", "c"]

    def test_ensure_makes_a_node_and_leaves_one_alone(self, one, root):
        one.ensure(f"{root}/a/b")
        assert one.children(f"{root}/a") == ["b"]
        one.put(f"{root}/a/b", 1)
        one.ensure(f"{root}/a/b")
        assert one.get(f"{root}/a/b") == 1

    def test_remove_takes_all_below(self, one, two, root):
        one.put(f"{root}/a/b/c", 1)
        one.put(f"{root}/d", 2)
        two.remove(f"{root}/a")
        assert one.children(root) == ["d"]
        assert one.get(f"{root}/a/b/c") is None

    @pytest.mark.parametrize("make", ["put", "create", "hold", "claim", "ensure"])
    def test_ephemeral_node_has_no_children(self, one, root, make):
        one.hold(f"{root}/a", 1)
        value = () if make == "ensure" else (2,)
        with pytest.raises(RegistryError):
            getattr(one, make)(f"{root}/a/b", *value)
        assert one.children(f"{root}/a") == []


class TestSessions:
    def test_close_takes_along_what_is_ephemeral_alone(self, one, two, root):
        one.create(f"{root}/created", 1, ephemeral=True)
        one.hold(f"{root}/held", 1)
        one.claim(f"{root}/claimed", 1)
        one.put(f"{root}/put", 1)
        two.put(f"{root}/held", 2)
        assert two.children(root) == ["claimed", "created", "held", "put"]
        one.close()
        assert two.children(root) == ["put"]

    def test_hold_takes_the_place_of_another(self, one, two, root):
        one.hold(f"{root}/a", 1)
        two.hold(f"{root}/a", 2)
        one.close()
        assert two.get(f"{root}/a") == 2

    def test_hold_where_a_node_has_children(self, one, root):
        one.put(f"{root}/a/b", 1)
        with pytest.raises(RegistryError):
            one.hold(f"{root}/a", 2)
        assert one.children(f"{root}/a") == ["b"]

    def test_claim_is_one_owners_until_it_ends(self, one, two, root):
        assert one.claim(f"{root}/a", 1) is True
        assert one.claim(f"{root}/a", 2) is False
        assert two.claim(f"{root}/a", 2) is False
        one.check_taken()
        one.close()
        assert two.claim(f"{root}/a", 2) is True
        assert two.get(f"{root}/a") == 2

    def test_closed_session_answers_nothing(self, one, root):
        one.close()
        for call in (
            lambda: one.get(root),
            lambda: one.children(root),
            lambda: one.put(f"{root}/a", 1),
            lambda: one.create(f"{root}/a", 1),
            lambda: one.remove(f"{root}/a"),
            lambda: one.watch(f"{root}/a", print),
        ):
            with pytest.raises(RegistryError):
                call()

    def test_expiry(self, registry, one, two, root):
        held, names = Calls(), Calls()
        one.create(f"{root}/x/created", 1, ephemeral=True)
        one.hold(f"{root}/x/held", {"life": 1})
        one.hold(f"{root}/x/held", {"life": 2})
        one.claim(f"{root}/x/claimed", 3)
        one.put(f"{root}/x/put", 4)
        two.watch(f"{root}/x/held", held)
        two.watch_children(f"{root}/x", names)
        registry.expire(one)
        held.until(None)
        held.until({"life": 2})
        names.until(["claimed", "held", "put"])
        assert two.get(f"{root}/x/claimed") == 3
        one.check_taken()

    def test_what_was_claimed_and_taken_meanwhile(self, registry, one, two, root):
        one.claim(f"{root}/a", 1)
        two.hold(f"{root}/a", 2)
        registry.expire(one)
        eventually(lambda: one.taken, "it is seen to be another's")
        with pytest.raises(RegistryError):
            one.check_taken()
        assert two.get(f"{root}/a") == 2


class TestWatches:
    def test_value_now_and_at_each_change(self, one, two, root):
        calls = Calls()
        one.watch(f"{root}/a", calls)
        assert calls.next() is None
        for act, told in (
            (lambda: two.put(f"{root}/a", 1), 1),
            (lambda: two.put(f"{root}/a", 1), 1),
            (lambda: two.remove(f"{root}/a"), None),
            (lambda: two.create(f"{root}/a"), None),
            (lambda: two.put(f"{root}/a/below", 1), "nothing"),
            (lambda: two.put(f"{root}/a", 2), 2),
        ):
            act()
            if told != "nothing":
                assert calls.next() == told

    def test_names_now_and_at_each_change(self, one, two, root):
        calls = Calls()
        one.watch_children(f"{root}/a", calls)
        assert one.children(root) == ["a"]
        assert calls.next() == []
        two.create(f"{root}/a/x")
        assert calls.next() == ["x"]
        two.put(f"{root}/a/x", 1)
        two.put(f"{root}/a/x/below", 1)
        two.hold(f"{root}/a/y", 1)
        assert calls.next() == ["x", "y"]
        two.close()
        assert calls.next() == ["x"]
        one.remove(f"{root}/a")
        calls.until([])
        one.create(f"{root}/a/z")
        assert calls.next() == ["z"]

    def test_stopped_watch_tells_nothing(self, one, root):
        first, second = Calls(), Calls()
        stopped = one.watch(f"{root}/a", first)
        other = one.watch(f"{root}/a", second)
        stopped.stop()
        one.put(f"{root}/a", 1)
        one.refresh([other])
        second.until(1)
        assert first.next() is None
        assert first.is_empty()

    def test_refresh_tells_what_there_is(self, one, two, root):
        told = {}
        watches = one.watch_all(
            {f"{root}/{name}": lambda value, name=name: told.update({name: value}) for name in "ab"}
        )
        assert told == {"a": None, "b": None}
        two.put(f"{root}/a", 1)
        two.put(f"{root}/b", 2)
        one.refresh(watches)
        assert told == {"a": 1, "b": 2}


PATHS = ["a", "a/b", "a/b/c", "d"]
VALUED = ["create", "ephemeral", "put", "hold", "claim", "publish"]
OTHERS = ["ensure", "remove", "get", "children"]
scripts = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from(VALUED + OTHERS), st.sampled_from(PATHS)),
    max_size=15,
)


def play(registry, script):
    """What came of each call; then what there is, and of it what stays when a session ends."""
    sessions, found, told = [registry.open(), registry.open()], [], {}
    reader = registry.open()
    paths = {name: f"{registry.root}/{name}" for name in PATHS}
    watches = reader.watch_all(
        {path: lambda value, name=name: told.update({name: value}) for name, path in paths.items()}
    )
    for number, (who, what, name) in enumerate(script):
        options = {"ephemeral": True} if what == "ephemeral" else {}
        call = getattr(sessions[who], "create" if options else what)
        try:
            came = call(paths[name], *((number,) if what in VALUED else ()), **options)
            # which says nothing of either
            found.append(None if what == "publish" else came)
        except RegistryError:
            found.append("RegistryError")
    for session in [*sessions, None]:
        reader.refresh(watches)
        found.append(dict(told))
        found += [reader.children(path) for path in [registry.root, *paths.values()]]
        found.append([bool(each.taken) for each in sessions])
        if session is not None:
            session.close()
    return found


@given(script=scripts)
@settings(
    max_examples=100, deadline=None, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
def test_any_script(server, script):
    fake, real = Fake(), Real(server)
    try:
        assert play(fake, script) == play(real, script)
    finally:
        fake.close()
        real.close()

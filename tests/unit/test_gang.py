"""A gang's places and variables, its HTTP store, and how its processes meet and part."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from tfos.errors import UsageError
from tfos.runtime.ports import hold_port
from tfos.spec.job import JobSpec
from tfos.spec.roles import Task
from tfos.strategies.gang import store
from tfos.strategies.gang.backend import Gang
from tfos.strategies.gang.context import GangContext
from tfos.strategies.gang.places import place_of, variables
from tfos.strategies.gang.store import Store, serving
from tfos.strategies.gang.world import PeerLost, join

ADDRESSES = {"chief": ["a:1"], "worker": ["b:2", "a:3", "a:4"]}
TASKS = [Task("chief", 0), *(Task("worker", i) for i in range(3))]


@pytest.fixture
def address():
    """Of rank 0, held as its supervisor holds it."""
    with hold_port("127.0.0.1") as held:
        yield f"127.0.0.1:{held.getsockname()[1]}"


class TestPlaces:
    def test_local_ranks_are_those_of_a_machine_and_cross_ranks_of_several(self):
        places = [place_of(task, ADDRESSES, [""] * 4) for task in TASKS]
        assert [(p.rank, p.size) for p in places] == [(0, 4), (1, 4), (2, 4), (3, 4)]
        assert [(p.local_rank, p.local_size) for p in places] == [(0, 3), (0, 1), (1, 3), (2, 3)]
        assert [(p.cross_rank, p.cross_size) for p in places] == [(0, 2), (1, 2), (0, 1), (0, 1)]
        assert [(p.node, p.host) for p in places] == [(0, "a"), (1, "b"), (0, "a"), (0, "a")]

    def test_gpus_of_their_own_make_processes_nodes_of_their_own(self):
        """Code takes the GPU with the number of its local rank, and sees no other than its own."""
        places = [place_of(task, ADDRESSES, ["2", "0", "1,3", "2"]) for task in TASKS]
        assert [(p.local_rank, p.local_size) for p in places] == [(0, 2), (0, 1), (0, 1), (1, 2)]
        assert [(p.cross_rank, p.cross_size) for p in places] == [(0, 3), (1, 3), (2, 3), (0, 1)]
        assert [p.node_name for p in places] == ["a-gpu-2", "b", "a-gpu-1-3", "a-gpu-2"]
        assert [p.node for p in places] == [0, 1, 2, 0]

    def test_one_process_is_a_gang(self):
        place = place_of(Task("chief", 0), {"chief": ["a:1"]}, ["0,1"])
        assert (place.rank, place.size, place.local_size, place.cross_size) == (0, 1, 1, 1)

    def test_variables(self):
        place = place_of(TASKS[2], ADDRESSES, ["0"] * 4)
        assert variables(place, "a:77", "a:1", 120.0) == {
            "RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "3",
            "GROUP_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "77",
            "HOROVOD_RANK": "2", "HOROVOD_SIZE": "4", "HOROVOD_LOCAL_RANK": "1",
            "HOROVOD_LOCAL_SIZE": "3", "HOROVOD_CROSS_RANK": "0", "HOROVOD_CROSS_SIZE": "1",
            "HOROVOD_HOSTNAME": "a", "HOROVOD_CONTROLLER": "gloo",
            "HOROVOD_CPU_OPERATIONS": "gloo", "HOROVOD_GLOO_RENDEZVOUS_ADDR": "a",
            "HOROVOD_GLOO_RENDEZVOUS_PORT": "1", "HOROVOD_GLOO_TIMEOUT_SECONDS": "120",
        }  # fmt: skip


def ask(address, method, path, body=None):
    connection = http.client.HTTPConnection(address, timeout=10)
    with contextlib.closing(connection):
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()


class TestStore:
    """As Horovod's C++ side asks it."""

    def test_has_what_was_put(self, address):
        with serving(address):
            assert ask(address, "GET", "/global/0") == (404, b"")
            assert ask(address, "PUT", "/global/0", b"\0binary\xff")[0] == 200
            assert ask(address, "GET", "/global/0") == (200, b"\0binary\xff")
            assert ask(address, "GET", "/local_h/0")[0] == 404
            assert ask(address, "PUT", "/nothing", b"x")[0] == 400

    def test_a_scope_goes_with_the_last_rank_that_needs_it(self, address):
        """Another one may not have read yet what the first one has left."""
        with serving(address):
            for rank in "01":
                ask(address, "PUT", f"/global/{rank}", b"x")
                ask(address, "PUT", f"/global/rank_{rank}", b"host")
            assert ask(address, "DELETE", "/global/0")[0] == 200
            assert ask(address, "GET", "/global/0")[0] == 200
            ask(address, "DELETE", "/global/1")
            assert ask(address, "GET", "/global/0")[0] == 404
            assert ask(address, "GET", "/global/rank_1")[0] == 404

    def test_is_gone_with_its_block(self, address):
        with serving(address):
            Store(address).put("k", "v")
        with pytest.raises(ConnectionError, match="does not answer"):
            Store(address).get("k")
        with serving(address):
            assert Store(address).get("k") is None

    def test_waits_until_it_is_served_and_has_the_key(self, address):
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(Store(address).wait, "k", 20, up=False)
            with serving(address):
                Store(address).put("k", "v")
                assert waiting.result(20) == "v"

    def test_one_that_is_slow_to_answer_is_waited_for(self, address, monkeypatch):
        """As where rank 0's train() holds Python's lock."""
        slow = threading.Event()
        get = store._Keys.get

        def get_slowly(keys, *where):
            if not slow.is_set():
                slow.set()
                asked_again.wait(20)
            else:
                asked_again.set()
            return get(keys, *where)

        asked_again = threading.Event()
        monkeypatch.setattr(store, "_REQUEST_SECS", 0.1)
        monkeypatch.setattr(store._Keys, "get", get_slowly)
        with serving(address):
            Store(address).put("k", "v")
            assert Store(address).get("k") == "v"
        assert asked_again.is_set()

    def test_says_which_key_did_not_come(self, address):
        with serving(address), pytest.raises(ConnectionError, match="'k' did not come"):
            Store(address).wait("k", 0.05)


class World:
    """Processes of a gang in threads."""

    def __init__(self, address, size):
        self.size = size
        self.addresses = {"chief": [address], "worker": ["127.0.0.1:1"] * (size - 1)}

    def host(self, rank, life=1):
        task = Task("worker", rank - 1) if rank else Task("chief", 0)
        return SimpleNamespace(
            task=task, attempt=1, life=life, addresses=self.addresses, spec=JobSpec.of("gang"),
            meeting=contextlib.nullcontext,
        )  # fmt: skip

    def run(self, act, ranks=None):
        def one(rank):
            with join(self.host(rank)) as world:
                return act(world)

        with ThreadPoolExecutor(self.size) as pool:
            found = [pool.submit(one, rank) for rank in range(self.size)]
            return [future.exception(30) or future.result() for future in found]


class TestContext:
    def test_tells_what_takes_the_place_of_what_other_strategies_have(self):
        ctx = GangContext.__new__(GangContext)
        assert not hasattr(ctx, "fit")
        with pytest.raises(UsageError, match=r"--strategy gang has no ctx.fit: .* multi-worker"):
            ctx.fit(None, None)
        with pytest.raises(UsageError, match=r"no ctx.export: .* ctx.output_dir"):
            _ = ctx.export
        with pytest.raises(AttributeError, match="no attribute 'x'"):
            _ = ctx.x


class TestWorld:
    def test_all_have_one_port_that_can_be_bound(self, address):
        def act(world):
            world.agree(7)
            if world.place.rank == 0:
                host, _, port = world.master.rpartition(":")
                with socket.socket() as alone:  # without SO_REUSEPORT, as torch and xgboost do
                    alone.bind((host, int(port)))
            world.leave()
            return world.environment

        found = World(address, 3).run(act)
        assert [each["RANK"] for each in found] == ["0", "1", "2"]
        assert len({each["MASTER_PORT"] for each in found}) == 1
        assert {each["GLOO_SOCKET_IFNAME"] for each in found} == {"lo"}
        assert found[0]["MASTER_PORT"] != found[0]["HOROVOD_GLOO_RENDEZVOUS_PORT"]

    def test_an_interface_that_is_named_stays(self, address, monkeypatch):
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
        (found,) = World(address, 1).run(lambda world: world.environment)
        assert "GLOO_SOCKET_IFNAME" not in found
        assert found["HOROVOD_GLOO_IFACE"] == "lo"

    def test_other_checkpoints_are_found_out_by_all(self, address):
        found = World(address, 3).run(lambda world: world.agree(world.place.rank // 2))
        assert all(isinstance(error, PeerLost) for error in found)
        assert "different steps: [0, 0, 1]" in str(found[0])
        assert Gang().failure_kind(found[0]) == "peer"
        assert Gang().failure_kind(ConnectionResetError("the user's own")) == "exception"

    def test_nobody_leaves_before_all_are_done(self, address):
        gate, done = threading.Event(), []

        def act(world):
            if world.place.rank == 1:
                gate.wait(20)
            done.append(world.place.rank)
            world.leave()
            return list(done)

        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(World(address, 3).run, act)
            while len(done) < 2:
                assert not running.done()
            gate.set()
            found = running.result(30)
        assert all(sorted(each) == [0, 1, 2] for each in found)

    def test_rank_0_that_fails_is_lost_to_the_others(self, address):
        def act(world):
            if world.place.rank == 0:
                raise ValueError("train() raised")
            world.leave()

        lost, *others = World(address, 3).run(act)
        assert isinstance(lost, ValueError)
        assert all(isinstance(error, PeerLost) for error in others)

    def test_errors_of_the_user_are_as_they_were_raised(self, address):
        def act(world):
            raise ConnectionResetError("my own server")

        (error,) = World(address, 1).run(act)
        assert type(error) is ConnectionResetError

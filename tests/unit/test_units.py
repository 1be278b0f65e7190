"""Units between a chief and its workers, over real sockets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from conftest import poll

from tfos.errors import StoreError, UsageError
from tfos.kv.connection import Connection
from tfos.kv.frames import FrameError
from tfos.training.stored.coordinator import Coordinator
from tfos.training.stored.orders import Order
from tfos.training.stored.wire import ASK, Unit, pack, unpack
from tfos.training.stored.worker import Worker

SECRET = b"the run's"
pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


@pytest.fixture
def coordinator(listener) -> Iterator[Coordinator]:
    made = Coordinator(listener, SECRET)
    made.begin(0, None)
    yield made
    made.close()


class Process(threading.Thread):
    """A worker that makes sections, one after the other; a unit gives the sum of its bounds."""

    def __init__(self, address: Any, sections: int = 1, make: Any = None) -> None:
        super().__init__(daemon=True)
        self.worker = Worker(address, SECRET, retry_secs=5)
        self.sections, self.told, self.made, self.error = sections, [], [], ""
        self._make = make or (lambda unit: [np.array(sum(unit.bounds))])
        self.start()

    def run(self) -> None:
        def make(unit: Unit) -> Any:
            self.made.append(unit)
            return self._make(unit)

        self.worker.begun()
        try:
            for _ in range(self.sections):
                self.told.append(self.worker.section("fit", make, lambda: None))
        except StoreError as error:
            self.error = str(error)


def units(coordinator: Coordinator, count: int) -> list[Any]:
    """Hands out units from a section, and returns their results."""

    def lead() -> list[Any]:
        given = [
            coordinator.submit("train", [[1, 2]], [0, n, n + 10], Order(n, 5, [0.1, None]))
            for n in range(count)
        ]
        return [int(each.fetch()[0]) for each in given]

    return coordinator.section("fit", lead, lambda found: ({"found": found}, [np.array(found)]))


def test_units_go_to_whoever_asks_and_come_back_in_order(coordinator, listener):
    workers = [Process(listener.getsockname()) for _ in range(3)]
    assert units(coordinator, 20) == [2 * n + 10 for n in range(20)]
    for worker in workers:
        worker.join(20)
        ((facts, arrays),) = worker.told
        assert facts == {"found": [2 * n + 10 for n in range(20)]}
        assert arrays[0].tolist() == facts["found"]
    made = [unit for worker in workers for unit in worker.made]
    assert sorted(unit.order.number for unit in made) == list(range(20))
    assert {(unit.program, str(unit.takes), unit.section) for unit in made} == {
        ("train", "[[1, 2]]", 0)
    }
    assert all(unit.order == Order(unit.order.number, 5, [0.1, None]) for unit in made)
    coordinator.wait_told(3, 10)


def test_unit_of_a_worker_that_is_gone_goes_to_another_one(coordinator, listener):
    has_it, may_end = threading.Event(), threading.Event()
    dying: Process

    def die(unit: Unit) -> Any:
        has_it.set()
        dying.worker.close()  # as the end of its process does
        may_end.wait(20)
        raise SystemExit

    found: list[Any] = []
    leading = threading.Thread(target=lambda: found.extend(units(coordinator, 1)), daemon=True)
    leading.start()
    dying = Process(listener.getsockname(), make=die)
    assert has_it.wait(20)
    Process(listener.getsockname())
    leading.join(20)
    assert found == [10]
    assert coordinator.unsettled == [(0, 10)]
    assert coordinator.given_again() == [(0, 10)]
    assert coordinator.given_again() == []
    may_end.set()


def test_worker_that_begins_late_is_told_of_sections_that_are_over(coordinator, listener):
    first = Process(listener.getsockname(), sections=2)
    assert units(coordinator, 2) == [10, 12]
    assert units(coordinator, 3) == [10, 12, 14]
    first.join(20)
    late = Process(listener.getsockname(), sections=2)
    late.join(20)
    assert [facts for facts, _ in late.told] == [facts for facts, _ in first.told]
    assert len(late.told) == 2
    assert not late.made


def test_stranger_gets_no_unit(coordinator, listener):
    sock = socket.create_connection(listener.getsockname())
    stranger = Connection(sock, 5)
    with pytest.raises(Exception, match="secret"):
        stranger.greet(bytes(16), b"another's")
    stranger.close()


def test_what_is_no_question_ends_that_connection_alone(coordinator, listener):
    bad = Connection(socket.create_connection(listener.getsockname()), 5)
    bad.greet(bytes(16), SECRET)
    bad.send(ASK, [b"\xff\xff\xff\xff{}"])
    header, _ = bad.receive()
    assert header.kind == 69
    bad.close()
    Process(listener.getsockname())
    assert units(coordinator, 1) == [10]


def test_chief_that_is_gone_is_said_so(listener):
    address = listener.getsockname()
    listener.close()
    worker = Worker(address, SECRET, retry_secs=0.2)
    with pytest.raises(StoreError, match=r"the chief at 127\.0\.0\.1:\d+ cannot be reached"):
        worker.section("fit", lambda unit: [], lambda: None)


@pytest.mark.parametrize("arrays", [[], [np.arange(3)], [np.float32(2), np.array([b"ab", b"c"])]])
def test_messages_come_as_they_were(arrays):
    payload = np.frombuffer(b"".join(pack({"a": [1, None]}, arrays)), np.uint8)
    facts, found = unpack(payload)
    assert facts == {"a": [1, None]}
    assert [each.tolist() for each in found] == [np.asarray(each).tolist() for each in arrays]


@pytest.mark.parametrize("data", [b"", b"\x05\x00\x00\x00{}", b"\x02\x00\x00\x00{}garbage"])
def test_what_is_no_message_is_refused(data):
    with pytest.raises(FrameError):
        unpack(np.frombuffer(data, np.uint8))


def test_objects_are_never_unpickled():
    with pytest.raises(ValueError, match="allow_pickle=False"):
        pack({}, [np.array([{}], object)])


def test_end_of_a_connection_between_units_costs_nothing(coordinator, listener):
    process = Process(listener.getsockname(), sections=2)
    assert units(coordinator, 1) == [10]
    poll(lambda: process.told, 10, "the section is over")
    process.worker.close()
    assert units(coordinator, 2) == [10, 12]


def test_loss_that_is_no_number_is_told(coordinator, listener):
    process = Process(listener.getsockname())
    coordinator.section("fit", lambda: float("nan"), lambda loss: ({"loss": loss}, []))
    process.join(20)
    assert np.isnan(process.told[0][0]["loss"])


def test_section_that_fails_ends_for_its_workers_and_leaves_no_unit(coordinator, listener):
    def lead() -> None:
        coordinator.submit("train", [], [0, 0, 1], Order())
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        coordinator.section("fit", lead, lambda found: ({}, []))
    worker = Worker(listener.getsockname(), SECRET)
    with pytest.raises(StoreError, match="not come to the end: OSError: the disk is full"):
        worker.section("fit", lambda unit: [], lambda: None)
    worker.close()


@pytest.mark.parametrize(
    ("step", "sections"), [(0, None), (9, {"user": {"epoch": 3, "loss": float("inf")}})]
)
def test_worker_continues_from_what_the_chief_does(listener, step, sections):
    coordinator = Coordinator(listener, SECRET)
    found: list[Any] = []
    worker = Worker(listener.getsockname(), SECRET)
    asking = threading.Thread(target=lambda: found.append(worker.begun()), daemon=True)
    asking.start()
    coordinator.begin(step, sections)
    asking.join(20)
    assert found == [(step, sections)]
    worker.close()
    coordinator.close()


def test_outputs_that_no_message_can_hold_are_refused(coordinator):
    class Large:
        nbytes = 5 << 30

    with pytest.raises(UsageError, match=r"5,120 MiB of outputs, of 4,095 at most"):
        coordinator.section("predict", lambda: None, lambda _: ({}, [Large()]))


class TestAnotherChief:
    """In the place of one that has died, at the same address."""

    @pytest.fixture
    def workers(self):
        """Two that have made section 0 of a chief, and are in section 1; and what it has given."""
        again = socket.create_server(("127.0.0.1", 0), reuse_port=True)
        first = Coordinator(again, SECRET, "1.1")
        first.begin(0, None)
        address = again.getsockname()
        made = [Process(address, sections=2) for _ in range(2)]
        assert units(first, 3) == [10, 12, 14]
        poll(lambda: all(worker.told for worker in made), 20, "they have heard of its end")
        result = made[0].told[0]
        first.close()
        with socket.create_server(address, reuse_port=True) as listener:
            yield made, result, listener

    def test_goes_on_with_the_workers(self, workers):
        made, result, listener = workers
        chief = Coordinator(listener, SECRET, "1.2")
        chief.begin(0, {}, ["1.1"], [result])
        chief.wait_asking(2)
        assert chief.next_result == result
        chief.skip("fit")
        assert units(chief, 2) == [10, 12]
        for worker in made:
            worker.join(20)
        found = [facts["found"] for facts, _ in made[1].told]
        assert found == [[10, 12, 14], [10, 12]]
        chief.close()

    def test_that_begins_anew_wants_none_of_them(self, workers):
        made, _, listener = workers
        chief = Coordinator(listener, SECRET, "1.2")
        chief.begin(0, None)
        for worker in made:
            worker.join(20)
            assert "this chief has begun anew" in worker.error
        Worker(listener.getsockname(), SECRET).begun()  # of a new process
        chief.close()

    def test_whose_train_does_something_else_sends_them_away(self, workers):
        made, result, listener = workers
        chief = Coordinator(listener, SECRET, "1.2")
        chief.begin(0, {}, ["1.1"], [result])
        chief.skip("fit")
        leading = threading.Thread(
            target=lambda: chief.section("predict", lambda: threading.Event().wait(20), None),
            daemon=True,
        )
        leading.start()
        for worker in made:
            worker.join(20)
            assert "its train() comes to fit, the chief's to predict" in worker.error
        chief.close()

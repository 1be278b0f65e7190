"""The protocol: frames, the handshake, what a server remembers, whatever else comes over a wire."""

from __future__ import annotations

import contextlib
import hmac
import random
import socket
import struct
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kv_servers import SECRET

from tfos.kv import frames
from tfos.kv.connection import CLIENT_BYTES, Connection, SecretError
from tfos.kv.frames import FrameError, Section
from tfos.kv.optimizers import SGD
from tfos.kv.server import Server
from tfos.kv.sessions import MOST_AWAY, Forgotten, Session, Sessions
from tfos.kv.spec import TableSpec, table_from_json
from tfos.kv.store import Store
from tfos.kv.visits import ADD, MAKE, PULL, PUSH, PUT

pytestmark = pytest.mark.timeout(60)

SEEDS = st.integers(0, 2**32)  # hypothesis draws what is made of them slowly
OPERATIONS = [PULL, MAKE, PUSH, ADD, PUT]


def some_sections(chance: random.Random, most: int = 4) -> list[Section]:
    return [some_section(chance) for _ in range(chance.randrange(most))]


def some_section(chance: random.Random) -> Section:
    operation, count = chance.choice(OPERATIONS), chance.randrange(6)
    keys = np.array([chance.randrange(-(2**63), 2**63) for _ in range(count)], np.int64)
    values = None
    if operation not in (PULL, MAKE):
        width = chance.randint(1, 5)
        values = np.array([chance.gauss(0, 9) for _ in range(count * width)], np.float32)
        values = values.reshape(count, width)
    rate = chance.choice([None, 0.0, -1.0, 0.5, float("inf")])
    return Section(chance.choice([0, 1, 2, 2**32 - 1]), operation, keys, values, rate)


def some_json(chance: random.Random, depth: int = 3) -> object:
    kind = chance.randrange(7 if depth else 5)
    if kind < 5:
        return chance.choice([None, True, chance.randrange(-3, 300), chance.gauss(0, 1e9), "Adam"])
    if kind == 5:
        return [some_json(chance, depth - 1) for _ in range(chance.randrange(4))]
    names = ["name", "width", "optimizer", "secs", "table", "stripe", "since", "slots"]
    return {chance.choice(names): some_json(chance, depth - 1) for _ in range(chance.randrange(6))}


def some_payload(chance: random.Random) -> bytes:
    """One that is right in itself, or nearly, or not at all."""
    kind = chance.randrange(4)
    if kind == 0:
        return chance.randbytes(chance.randrange(120))
    if kind == 1:
        return frames.pack_facts(some_json(chance))
    data = bytearray(joined(frames.pack_sections(some_sections(chance))))
    if kind == 2:
        return bytes(data)
    for _ in range(chance.randrange(4)):
        if data:
            data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data[: chance.randrange(len(data) + 1)])


def payload(data: bytes) -> np.ndarray:
    return np.frombuffer(bytearray(data), np.uint8)


def joined(parts) -> bytes:
    return b"".join(bytes(part) for part in parts)


def pair(stall_secs: float = 10.0) -> tuple[Connection, Connection]:
    return tuple(Connection(sock, stall_secs) for sock in socket.socketpair())


class TestFrames:
    @settings(max_examples=100, deadline=None)
    @given(SEEDS)
    def test_sections_come_back(self, seed):
        sent = some_sections(random.Random(seed), 9)
        found = frames.unpack_sections(payload(joined(frames.pack_sections(sent))))
        for one, other in zip(sent, found, strict=True):
            assert (one.table, one.operation, one.rate) == (
                other.table,
                other.operation,
                other.rate,
            )
            np.testing.assert_array_equal(one.keys, other.keys)
            assert (one.values is None) == (other.values is None)
            if one.values is not None:
                np.testing.assert_array_equal(one.values, other.values)

    @settings(max_examples=100, deadline=None)
    @given(SEEDS)
    def test_any_bytes_are_sections_or_an_error(self, seed):
        chance = random.Random(seed)
        for _ in range(100):
            data = some_payload(chance)
            try:
                found = frames.unpack_sections(payload(data))
            except FrameError:
                continue
            assert sum(section.keys.nbytes for section in found) <= len(data)

    def test_rows_come_back(self):
        rows = np.arange(3), np.arange(3) + 9, np.ones((3, 5), np.float32)
        for size in (3, 0):
            sent = [array[:size] for array in rows]
            found = frames.unpack_rows(payload(joined(frames.pack_rows(*sent))))
            for one, other in zip(sent, found, strict=True):
                np.testing.assert_array_equal(one, other)
        for data in (b"", bytes(15), struct.pack("<QQ", 1 << 60, 1 << 60)):
            with pytest.raises(FrameError):
                frames.unpack_rows(payload(data))

    @pytest.mark.parametrize(
        ("header", "message"),
        [
            (b"GET / HTTP/1.1\r\n", "begins no frame of the store"),
            (struct.pack("<2sBBIQ", b"kv", 2, 1, 0, 0), "version 2 .* this side has 1"),
            (frames.pack_header(1, (256 << 20) + 1), "a payload of 268,435,457 bytes"),
        ],
    )
    def test_bad_headers(self, header, message):
        with pytest.raises(FrameError, match=message):
            frames.unpack_header(header)

    def test_long_frames_are_refused_before_they_are_read(self):
        near, far = pair()
        far._socket.sendall(frames.pack_header(1, 5000))  # and nothing of it
        with pytest.raises(FrameError, match="a payload of 5,000 bytes, of 4,096 at most"):
            near.receive(most=frames.MOST_STRANGERS_BYTES)
        near.close()
        far.close()

    def test_a_frame_in_small_pieces(self):
        near, far = pair()
        parts = [bytes([n % 256]) * n for n in range(300)]
        received = []
        reader = threading.Thread(target=lambda: received.append(far.receive()))
        reader.start()
        near.send(7, parts, 99)
        reader.join(10)
        header, found = received[0]
        assert (header.kind, header.sequence) == (7, 99) and found.tobytes() == joined(parts)
        near._socket.sendall(frames.pack_header(1, 10) + b"half")
        near.close()
        with pytest.raises(EOFError, match="within a frame"):
            far.receive()
        far.close()

    def test_silence_within_a_frame_ends_it(self):
        near, far = pair(stall_secs=0.05)
        near._socket.sendall(frames.pack_header(1, 10) + b"half")
        with pytest.raises(TimeoutError):
            far.receive(waits=True)
        near.close()
        far.close()

    def test_spec_comes_back(self):
        spec = TableSpec("t", 3, SGD(0.5), seed=-1, admit_after=4, expire_secs=2.5)
        assert table_from_json(frames.unpack_facts(frames.pack_facts(spec.to_json()))) == spec


class TestHandshake:
    client = bytes(range(CLIENT_BYTES))

    def meet(self, client_secret, server_secret):
        near, far = pair()
        found = []

        def serve():
            try:
                found.append(far.welcome(server_secret, {"server": "s"}))
            except (SecretError, EOFError, OSError) as error:
                found.append(error)
            far.close()

        server = threading.Thread(target=serve)
        server.start()
        try:
            return near.greet(self.client, client_secret), found
        except (SecretError, EOFError, OSError) as error:
            return error, found
        finally:
            near.close()
            server.join(10)

    def test_both_have_the_secret(self):
        assert self.meet(b"one", b"one") == ({"server": "s"}, [self.client])

    def test_a_client_without_it_learns_that_from_the_server(self):
        error, found = self.meet(b"one", b"two")
        assert isinstance(error, SecretError) and isinstance(found[0], EOFError)

    def test_a_server_does_not_believe_a_client(self):
        """One that does not look at the server's answer, or sends it back as its own."""
        for forge in (lambda challenge: bytes(32), lambda challenge: challenge[32:]):
            near, far = pair()
            errors = []

            def serve(far=far, errors=errors):
                with pytest.raises(SecretError) as caught:
                    far.welcome(SECRET, {})
                errors.append(caught.value)
                far.close()

            server = threading.Thread(target=serve)
            server.start()
            near.send(frames.HELLO, [self.client, bytes(32)])
            _, challenge = near.receive()
            near.send(frames.PROOF, [forge(challenge.tobytes())])
            with pytest.raises((EOFError, OSError)):
                near.receive()
            near.close()
            server.join(10)
            assert len(errors) == 1

    def test_neither_the_secret_nor_the_same_answer_is_ever_sent(self):
        sent, real = [], Connection.send

        def send(self, kind, parts=(), sequence=0):
            sent.append(joined(parts))
            real(self, kind, parts, sequence)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Connection, "send", send)
            for _ in range(2):
                assert self.meet(SECRET, SECRET)[1] == [self.client]
        assert not any(
            SECRET in data or hmac.digest(SECRET, b"", "sha256") in data for data in sent
        )
        proofs = [data[-32:] for data in sent if len(data) in (32, 64)]
        assert len(proofs) == len(set(proofs)) == 4

    def test_a_stranger_that_says_nothing_is_given_up(self, monkeypatch):
        monkeypatch.setattr("tfos.kv.connection._HANDSHAKE_SECS", 0.05)
        near, far = pair()
        with pytest.raises(TimeoutError):
            far.welcome(SECRET, {})
        near.close()
        far.close()


class TestSessions:
    def test_a_request_is_begun_where_it_was_left(self):
        session = Session()
        assert session.begin(1) == 0
        session.done = 2
        assert session.begin(1) == 2 and session.begin(2) == 0
        for sequence in (0, 1, 4):
            with pytest.raises(Forgotten, match=f"request {sequence} of a client whose last"):
                session.begin(sequence)

    def test_memory_is_bounded_and_who_was_forgotten_is_told(self):
        sessions = Sessions()
        first = sessions.enter(b"first")
        first.begin(1)
        sessions.exit(first)
        held = sessions.enter(b"held")
        held.begin(1)
        for number in range(MOST_AWAY + 5):
            sessions.exit(sessions.enter(str(number).encode()))
        assert len(sessions._known) <= MOST_AWAY + 2
        assert sessions.enter(b"held") is held
        with pytest.raises(Forgotten):
            sessions.enter(b"first").begin(2)


class Guest:
    """A client that has shown the secret, and sends what it likes."""

    def __init__(self, server: Server, name: bytes = bytes(CLIENT_BYTES)) -> None:
        near, far = socket.socketpair()
        self.thread = threading.Thread(target=server.serve, args=(far,), name="store guest")
        self.thread.start()
        self.connection = Connection(near, 10.0)
        self.connection.greet(name, SECRET)

    def close(self) -> None:
        self.connection.close()
        self.thread.join(10)
        assert not self.thread.is_alive()


@pytest.fixture(scope="module")
def server():
    listener = socket.create_server(("127.0.0.1", 0))
    server = Server(listener, SECRET, Store(), stall_secs=5.0)  # not started: pairs are enough
    yield server
    server.close()


def check_it_serves(server: Server) -> None:
    guest = Guest(server, random.randbytes(CLIENT_BYTES))
    try:
        spec = TableSpec("good", 2, SGD(1.0))
        guest.connection.send(frames.TABLE, [frames.pack_facts(spec.to_json())])
        number = frames.unpack_facts(guest.connection.receive()[1])["table"]
        parts = frames.pack_sections([Section(number, PULL, np.arange(3))])
        guest.connection.send(frames.EXCHANGE, parts, 1)
        header, found = guest.connection.receive()
        assert (header.kind, header.sequence, len(found)) == (frames.VALUES, 1, 24)
    finally:
        guest.close()


@settings(max_examples=150, deadline=None)
@given(SEEDS)
def test_whatever_a_client_sends_the_server_serves(server, seed):
    """Frames that are whole and mean nothing, and cut ones: some thousands in all."""
    chance = random.Random(seed)
    kinds = range(frames.HELLO, frames.STATUS + 3)
    for _ in range(5):
        guest = Guest(server)
        with contextlib.suppress(EOFError, OSError):
            for _ in range(20):
                kind, data, sequence = (
                    chance.choice(kinds),
                    some_payload(chance),
                    chance.randrange(4),
                )
                if chance.random() < 0.02:
                    header = frames.pack_header(kind, len(data) + 1, sequence)
                    guest.connection._socket.sendall(header + data)
                    break
                guest.connection.send(kind, [data], sequence)
                while guest.connection.receive()[0].kind == frames.ROWS:
                    pass
        guest.close()
    check_it_serves(server)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=100), st.booleans())
def test_whatever_a_stranger_sends_the_server_serves(server, data, has_header):
    near, far = socket.socketpair()
    thread = threading.Thread(target=server.serve, args=(far,))
    thread.start()
    near.settimeout(10)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        near.sendall(frames.pack_header(frames.HELLO, len(data)) + data if has_header else data)
        near.shutdown(socket.SHUT_WR)
        while near.recv(4096):
            pass
    near.close()
    thread.join(10)
    assert not thread.is_alive()


def test_a_push_that_is_sent_again_is_applied_once(server):
    name = random.randbytes(CLIENT_BYTES)
    spec = TableSpec("twice", 1, SGD(1.0))
    number = server.store.table(spec)
    keys, ones = np.arange(4), np.ones((4, 1), np.float32)
    request = [Section(number, ADD, keys, ones), Section(number, PULL, keys)]
    for sequence in (1, 2):
        for _ in range(3):  # each time over a new connection
            guest = Guest(server, name)
            guest.connection.send(frames.EXCHANGE, frames.pack_sections(request), sequence)
            _, found = guest.connection.receive()
            assert (found.view(np.float32) == sequence).all()
            guest.close()


def test_half_a_request_is_gone_on_with(server, monkeypatch):
    """Memory that ran out between two sections: the first is not done again."""
    table = server.store.at(server.store.table(TableSpec("half", 1, SGD(1.0))))
    number, keys = server.store.tables.index(table), np.arange(4)
    ones = np.ones((4, 1), np.float32)
    request = [Section(number, ADD, keys, ones), Section(number, PUSH, keys, ones)]
    guest = Guest(server, random.randbytes(CLIENT_BYTES))

    def no_memory(*_):
        raise MemoryError("none left")

    with monkeypatch.context() as patch:
        patch.setattr(table, "push", no_memory)
        guest.connection.send(frames.EXCHANGE, frames.pack_sections(request), 1)
        header, found = guest.connection.receive()
    assert header.kind == frames.ERROR
    assert frames.unpack_facts(found)["message"] == "out of memory: none left"
    guest.connection.send(frames.EXCHANGE, frames.pack_sections(request), 1)
    assert guest.connection.receive()[0].kind == frames.VALUES
    guest.close()
    assert (table.pull(keys) == 0).all() and table.steps == 1

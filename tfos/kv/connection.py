"""Frames over a socket, and the handshake by which both sides show that they have the run's secret.

The secret never travels: each side answers the other's random challenge with an HMAC-SHA256 (RFC
2104) of both challenges, and of which side it is, so that no answer can be sent back as one's own.
The server answers first. After it the connection is plain: it keeps strangers out, and is no
protection from who can change what is on the way.
"""

from __future__ import annotations

import hmac
import secrets
import socket
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfos.kv import frames
from tfos.kv.frames import FrameError, Header

CLIENT_BYTES, _NONCE_BYTES, _PROOF_BYTES = 16, 32, 32
_HANDSHAKE_SECS = 10.0


class SecretError(Exception):
    """The other side does not have this run's secret."""


class Connection:
    """One side of a connection; used by one thread at a time.

    Methods raise OSError, EOFError when the other side has hung up, and FrameError for what is no
    frame. stall_secs: a frame that has begun, or a reply, may be silent for so long.
    """

    def __init__(self, sock: socket.socket, stall_secs: float) -> None:
        self._socket, self._stall_secs = sock, stall_secs
        self._handshake_until: float | None = time.monotonic() + _HANDSHAKE_SECS
        self._header = bytearray(frames.HEADER_BYTES)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def _be_patient(self) -> None:
        secs = self._stall_secs
        if self._handshake_until is not None:
            secs = min(secs, max(self._handshake_until - time.monotonic(), 0.001))
        self._socket.settimeout(secs)

    def send(self, kind: int, parts: Sequence[Any] = (), sequence: int = 0) -> None:
        """parts: buffers of bytes, the payload."""
        length = sum(len(part) for part in parts)
        self._be_patient()
        header = frames.pack_header(kind, length, sequence)
        todo = [memoryview(part) for part in (header, *parts)]
        while todo:
            sent = self._socket.sendmsg(todo[:64])
            while todo and sent >= len(todo[0]):
                sent -= len(todo.pop(0))
            if todo:
                todo[0] = todo[0][sent:]

    def receive(
        self, waits: bool = False, most: int = frames.MOST_BYTES
    ) -> tuple[Header, np.ndarray]:
        """The next frame, its payload as uint8 [n]. waits: for its first byte, however long."""
        if waits:
            self._socket.settimeout(None)
        else:
            self._be_patient()
        view = memoryview(self._header)
        got = self._socket.recv_into(view)
        if got == 0:
            raise EOFError("the other side has closed the connection")
        self._be_patient()
        self._fill(view[got:])
        header = frames.unpack_header(bytes(self._header), most)
        payload = np.empty(header.length, np.uint8)
        if header.length:
            self._fill(payload.data)
        return header, payload

    def _fill(self, view: memoryview) -> None:
        while len(view):
            got = self._socket.recv_into(view)
            if got == 0:
                raise EOFError("the other side has closed the connection within a frame")
            view = view[got:]

    def close(self) -> None:
        """Ends it; a thread that waits in receive() gets EOFError or OSError."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._socket.close()

    def greet(self, client: bytes, secret: bytes) -> dict[str, Any]:
        """The client's side of the handshake: what the server says of itself.

        client: CLIENT_BYTES bytes that are no other client's. Raises SecretError as well.
        """
        nonce = secrets.token_bytes(_NONCE_BYTES)
        self.send(frames.HELLO, [client, nonce])
        payload = self._expect(frames.CHALLENGE, _NONCE_BYTES + _PROOF_BYTES)
        challenge, proof = payload[:_NONCE_BYTES], payload[_NONCE_BYTES:]
        if not hmac.compare_digest(proof, _proof(secret, b"server", client, nonce, challenge)):
            raise SecretError("the server does not have this run's secret")
        self.send(frames.PROOF, [_proof(secret, b"client", client, nonce, challenge)])
        facts = frames.unpack_facts(self._expect(frames.FACTS))
        self._handshake_until = None
        return facts

    def welcome(self, secret: bytes, facts: dict[str, Any]) -> bytes:
        """The server's side: who the client is. Raises SecretError as well.

        facts: what the server says of itself.
        """
        hello = self._expect(frames.HELLO, CLIENT_BYTES + _NONCE_BYTES)
        client, nonce = hello[:CLIENT_BYTES], hello[CLIENT_BYTES:]
        challenge = secrets.token_bytes(_NONCE_BYTES)
        proof = _proof(secret, b"server", client, nonce, challenge)
        self.send(frames.CHALLENGE, [challenge, proof])
        found = self._expect(frames.PROOF, _PROOF_BYTES)
        if not hmac.compare_digest(found, _proof(secret, b"client", client, nonce, challenge)):
            raise SecretError("the client does not have this run's secret")
        self.send(frames.FACTS, [frames.pack_facts(facts)])
        self._handshake_until = None
        return client

    def _expect(self, kind: int, length: int | None = None) -> bytes:
        header, payload = self.receive(most=frames.MOST_STRANGERS_BYTES)
        if header.kind == frames.ERROR:
            raise FrameError(str(frames.unpack_facts(payload).get("message")))
        if header.kind != kind or length not in (None, header.length):
            raise FrameError(f"a frame of kind {header.kind} and {header.length} bytes, not {kind}")
        return payload.tobytes()


def _proof(secret: bytes, side: bytes, client: bytes, nonce: bytes, challenge: bytes) -> bytes:
    message = b"tfos.kv" + bytes([frames.VERSION]) + side + client + nonce + challenge
    return hmac.digest(secret, message, "sha256")

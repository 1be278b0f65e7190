"""What goes on beside a step: the next one's rows are pulled, the last one's gradients pushed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from tfos.kv.client import Client

T = TypeVar("T")


class Lane:
    """Does one thing after the other, with a client of its own."""

    client: Client

    def begin(self, act: Callable[..., T], *arguments: Any) -> Future[T]:
        """Its result() raises what act(*arguments) raised."""
        raise NotImplementedError


class Aside(Lane):
    """In a thread of its own."""

    def __init__(self, client: Client, name: str) -> None:
        self.client = client
        self._pool = ThreadPoolExecutor(1, name)

    def begin(self, act: Callable[..., T], *arguments: Any) -> Future[T]:
        return self._pool.submit(act, *arguments)


class AtOnce(Lane):
    """Before begin() returns: for steps each of which is to see what the last one did."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def begin(self, act: Callable[..., T], *arguments: Any) -> Future[T]:
        done: Future[T] = Future()
        done.set_result(act(*arguments))
        return done

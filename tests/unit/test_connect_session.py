"""A session of Spark Connect, without a server; tests/e2e/test_connect.py has one."""

from __future__ import annotations

from tfos.driver.connect import impatient


class Client:
    policies = ("own",)

    def get_retry_policies(self):
        return self.policies

    def set_retry_policies(self, policies):
        self.policies = tuple(policies)


def test_runs_that_overlap_leave_the_sessions_own_retries():
    client, other = Client(), Client()
    first, second = impatient(client), impatient(client)
    first.__enter__()
    second.__enter__()
    (short,) = client.policies
    assert short != "own"
    first.__exit__(None, None, None)
    assert client.policies == (short,)
    second.__exit__(None, None, None)
    assert client.policies == other.policies == ("own",)

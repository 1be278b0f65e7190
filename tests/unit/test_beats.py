"""A run whose driver is seen by its lease alone: real leases, a registry that nobody serves."""

from __future__ import annotations

import threading

import pytest
from conftest import free_port, poll

from tfos.client import beats, control
from tfos.driver import lease as lease_module
from tfos.driver.lease import Lease
from tfos.errors import LakeError, RegistryError
from tfos.lake.run_directory import DriverLease, RunDirectory
from tfos.runtime.registry import RegistryAddress
from tfos.spec.job import JobSpec
from tfos.spec.result import Result
from tfos.spec.times import TIMES

DEADLINE_SECS = 10
POD = {"master": "k8s://https://api:6443", "deploy_mode": "cluster", "pod": "team/app-1-driver"}


@pytest.fixture
def lake(tmp_path, monkeypatch):
    monkeypatch.setattr(TIMES, "lease_secs", 0.05)
    monkeypatch.setattr(TIMES, "lease_watch_secs", 1.0)
    for module in (lease_module, beats):
        monkeypatch.setattr(module, "_LOOK_EVERY_SECS", 0.02)
    monkeypatch.setattr(control, "_ENDING_SECS", 0.0)
    lake = RunDirectory(str(tmp_path), "r")
    lake.write_spec({**JobSpec.of(run_id="r").as_json(), **POD})
    lake.write_registry(vars(RegistryAddress.new(f"127.0.0.1:{free_port()}", "r")))
    return lake


@pytest.fixture
def driver(lake):
    """What a driver keeps in the lake while it lives."""
    lease = Lease(lake, "mine")
    lease.take()
    yield lease
    lease.release()


class TestStatus:
    def test_of_a_driver_that_lives_is_not_dead_and_says_where_to_ask(self, lake, driver):
        status = control.read_status(lake)
        assert status.state == "unreachable"
        assert "no ZooKeeper server answers at 127.0.0.1:" in status.message
        assert "kubectl exec -n team app-1-driver -- pl_submit status r --lake" in status.message
        assert "--resume" not in status.message
        assert control.has_driver(lake)

    def test_of_a_driver_that_is_in_no_pod_names_its_host(self, lake, driver):
        lake.write_spec({**JobSpec.of(run_id="r").as_json(), **POD, "pod": ""})
        message = control.read_status(lake).message
        assert f"Ask it on host {lake.lease().host}: pl_submit status r" in message
        assert "kubectl" not in message

    def test_of_one_that_beats_no_more_is_dead(self, lake):
        lake.write_lease(DriverLease("there", "m", 4711, "s", "t", 7))
        status = control.read_status(lake)
        assert status.state == "dead"
        assert "--resume --run-id r" in status.message
        assert not control.has_driver(lake)

    def test_of_one_that_ends_meanwhile_is_its_result(self, lake, driver, monkeypatch):
        def ends(lake):
            lake.write_result(Result("r", "succeeded").as_json())

        monkeypatch.setattr(control, "living", ends)
        assert control.read_status(lake).state == "succeeded"


class TestCancel:
    def test_is_asked_for_in_the_lake(self, lake, driver):
        asked = threading.Event()

        def end(request):
            message = f"cancelled by {request['by']}"
            lake.write_result(Result("r", "failed", {"message": message}).as_json())
            asked.set()

        driver.when_cancelled(end)
        result = control.cancel(lake, secs=DEADLINE_SECS)
        assert asked.wait(DEADLINE_SECS)
        assert "@" in result.error["message"]
        poll(lambda: lake.cancel_request() is None, DEADLINE_SECS, "the request is gone")

    def test_is_heeded_though_it_may_not_be_read(self, lake, driver, monkeypatch):
        def denied():
            raise LakeError("cancel.json") from PermissionError(13, "Permission denied")

        asked = []
        monkeypatch.setattr(lake, "cancel_request", denied)
        first = lake.lease().beat
        driver.when_cancelled(lambda request: asked.append(request["by"]))
        poll(lambda: asked, DEADLINE_SECS, "it is asked")
        poll(lambda: lake.lease().beat > first, DEADLINE_SECS, "it beats")
        assert "may not be read" in asked[0]

    def test_one_that_does_not_end(self, lake, driver):
        driver.when_cancelled(lambda request: None)
        with pytest.raises(RegistryError, match=r"has not ended within 0\.5 s"):
            control.cancel(lake, secs=0.5)

    def test_of_a_run_without_a_driver_asks_nobody(self, lake):
        with pytest.raises(RegistryError, match="is not running"):
            control.cancel(lake)
        assert lake.cancel_request() is None

    def test_asked_of_a_driver_before_is_not_asked_of_the_next(self, lake):
        lake.write_cancel_request({"by": "somebody"})
        lease = Lease(lake, "mine")
        asked = []
        lease.when_cancelled(asked.append)
        lease.take()
        first = lake.lease().beat
        poll(lambda: lake.lease().beat >= first + 3, DEADLINE_SECS, "it beats")
        lease.release()
        assert asked == []

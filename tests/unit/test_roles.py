"""Which tasks a run has, and the cluster they form."""

from __future__ import annotations

import random

import pytest

from tfos.runtime.roles import addresses, all_tasks, local_master, role_jobs
from tfos.spec.job import JobSpec
from tfos.spec.roles import RoleJob, Task


class TestTask:
    @pytest.mark.parametrize(
        ("task", "text"), [(Task("chief", 0), "chief-0"), (Task("worker", 12), "worker-12")]
    )
    def test_text_and_back(self, task, text):
        assert str(task) == text
        assert Task.parse(text) == task

    def test_order_is_numeric(self):
        tasks = [Task("worker", 10), Task("worker", 9), Task("ps", 11)]
        assert sorted(tasks) == [Task("ps", 11), Task("worker", 9), Task("worker", 10)]


class TestRoleJobs:
    def test_ps_and_train_are_separate_jobs(self):
        assert role_jobs(JobSpec.of(num_ps=2, num_workers=3)) == (
            RoleJob("ps", (Task("ps", 0), Task("ps", 1))),
            RoleJob(
                "train",
                (Task("chief", 0), Task("worker", 0), Task("worker", 1), Task("worker", 2)),
            ),
        )

    def test_single_is_one_chief(self):
        spec = JobSpec.of(strategy="single", num_ps=4, num_workers=4)
        assert role_jobs(spec) == (RoleJob("train", (Task("chief", 0),)),)
        assert spec.topology.waits_for(Task("chief", 0)) == frozenset()

    def test_all_tasks_are_those_of_the_jobs_once_each(self):
        tasks = all_tasks(JobSpec.of(num_ps=3, num_workers=4))
        assert len(tasks) == len(set(tasks)) == 1 + 3 + 4

    def test_workers_in_step_are_one_job_and_the_chief_is_one_of_them(self):
        spec = JobSpec.of(strategy="multi-worker", num_ps=4, num_workers=3)
        tasks = (Task("chief", 0), Task("worker", 0), Task("worker", 1))
        assert role_jobs(spec) == (RoleJob("train", tasks),)
        alone = JobSpec.of(strategy="multi-worker", num_workers=1)
        assert all_tasks(alone) == (Task("chief", 0),)


class TestWaitsFor:
    def test_the_chief_waits_for_all_servers_and_they_for_nobody(self):
        spec = JobSpec.of(num_ps=1, num_workers=2)
        assert not spec.topology.is_ready_at_once("worker")
        assert spec.topology.waits_for(Task("chief", 0)) == set(all_tasks(spec)) - {
            Task("chief", 0)
        }
        for task in (Task("ps", 0), Task("worker", 1)):
            assert spec.topology.waits_for(task) == frozenset()

    def test_workers_in_step_wait_for_all_of_them(self):
        spec = JobSpec.of(strategy="multi-worker", num_workers=3)
        assert spec.topology.is_ready_at_once("worker")
        for task in all_tasks(spec):
            assert spec.topology.waits_for(task) == set(all_tasks(spec))


class TestCluster:
    def test_addresses_stand_in_the_order_of_the_indices(self):
        members = {Task("worker", i): f"w{i}:1" for i in range(12)}
        members.update({Task("ps", i): f"p{i}:1" for i in range(2)})
        members[Task("chief", 0)] = "c:1"
        shuffled = list(members.items())
        random.Random(3).shuffle(shuffled)
        assert addresses(dict(shuffled)) == {
            "chief": ["c:1"],
            "ps": ["p0:1", "p1:1"],
            "worker": [f"w{i}:1" for i in range(12)],
        }


class TestLocalMaster:
    @pytest.mark.parametrize(
        ("spec", "master"),
        [
            (JobSpec.of(), "local[4]"),
            (JobSpec.of(num_ps=2, num_workers=5), "local[8]"),
            (JobSpec.of(strategy="single"), "local[1]"),
        ],
    )
    def test_one_slot_per_role(self, spec, master):
        assert local_master(spec) == master

    def test_has_a_slot_for_the_feed_where_that_is_made_at_the_same_time(self):
        assert local_master(JobSpec.of(overlap="on")) == "local[5]"

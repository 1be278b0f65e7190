"""Executors of sizes of their own: what options say, and what Spark is asked for and told."""

from __future__ import annotations

import dataclasses
import re

import pytest

from tfos.driver import allocation
from tfos.driver.allocation import Request, request_of
from tfos.errors import PreflightError, UsageError
from tfos.runtime.roles import role_jobs
from tfos.spec.job import JobSpec, job_spec
from tfos.spec.roles import RoleJob, Task
from tfos.spec.sizes import Size, cores_of
from tfos.strategies.single.topology import Single

ON = {"spark.dynamicAllocation.enabled": "true"}
SIZED = JobSpec.of(num_ps=2, num_workers=2, ps_memory="32g", worker_memory="8g", worker_gpus=1)


class TestOptions:
    def test_have_three_spellings(self):
        conf = {"spark.tfos.psMemory": "2g", "spark.tfos.workerCores": "8"}
        spec = job_spec(conf, {"worker_gpus": 1})
        assert spec.size_of("ps") == Size(2048)
        assert spec.size_of("worker") == Size(cores=8, gpus=1)
        assert spec.size_of("chief") == Size()

    def test_of_workers_in_step_are_the_chiefs_as_well(self):
        spec = JobSpec.of(strategy="multi-worker", worker_gpus=2, evaluator=True, evaluator_cores=3)
        assert spec.size_of("chief") == spec.size_of("worker") == Size(gpus=2)
        assert spec.size_of("evaluator") == Size(cores=3)

    def test_of_another_strategy_are_fields_named_after_its_roles(self):
        @dataclasses.dataclass(frozen=True)
        class Peers(Single):
            peer_cores: int = cores_of("peer")

        assert Peers(peer_cores=3).size_of("peer") == Size(cores=3)

    def test_come_back_from_json(self):
        assert JobSpec.from_json(SIZED.as_json()) == SIZED

    @pytest.mark.parametrize(
        ("option", "value", "words"),
        [
            ("ps_memory", "32", r"--ps-memory \(.*\) is '32': write a number and its unit"),
            ("ps_memory", "much", "'much'"),
            ("worker_memory", "800m", r"800m, .* 1092m or more"),
            ("worker_cores", -1, r"--worker-cores .* is -1"),
            ("evaluator_gpus", -2, r"--evaluator-gpus .* is -2"),
        ],
    )
    def test_that_say_nothing_sensible(self, option, value, words):
        with pytest.raises(UsageError, match=words):
            JobSpec.of(**{option: value})


class TestRoleJobs:
    def test_are_one_of_each_size(self):
        spec = JobSpec.of(num_workers=2, worker_cores=4, evaluator=True)
        assert role_jobs(spec) == (
            RoleJob("ps", (Task("ps", 0),)),
            RoleJob("chief-evaluator", (Task("chief", 0), Task("evaluator", 0))),
            RoleJob("worker", (Task("worker", 0), Task("worker", 1)), Size(cores=4)),
        )

    def test_that_are_of_one_size_stay_together(self):
        (job,) = role_jobs(JobSpec.of(strategy="multi-worker", num_workers=2, worker_cores=4))
        assert job == RoleJob("train", (Task("chief", 0), Task("worker", 0)), Size(cores=4))


class TestSettings:
    def test_turn_dynamic_allocation_on_where_sizes_are_asked_for(self):
        added = allocation.settings(SIZED, "yarn", {})
        assert added["spark.dynamicAllocation.enabled"] == "true"
        assert added["spark.dynamicAllocation.shuffleTracking.enabled"] == "true"
        assert allocation.is_dynamic("yarn", added)

    def test_leave_the_shuffle_service_its_work(self):
        conf = {"spark.shuffle.service.enabled": "true"}
        assert not any("shuffleTracking" in key for key in allocation.settings(SIZED, "yarn", conf))

    def test_keep_the_etl_without_gpus(self):
        script = {"spark.executor.resource.gpu.discoveryScript": "/x"}
        amount = {"spark.executor.resource.gpu.amount": "0"}
        assert allocation.settings(SIZED, "yarn", {**ON, **script}) == amount
        asked = {"spark.executor.resource.gpu.amount": "2"}
        assert allocation.settings(SIZED, "yarn", {**ON, **script, **asked}) == {}

    @pytest.mark.parametrize(
        ("spec", "master", "conf"),
        [
            (JobSpec.of(), "yarn", {}),
            (SIZED, "local[4]", {}),
            (SIZED, "yarn", ON),
            (SIZED, "yarn", {"spark.dynamicAllocation.enabled": "false"}),
        ],
    )
    def test_are_none_where_nobody_needs_them_or_the_user_has_said_it(self, spec, master, conf):
        assert allocation.settings(spec, master, conf) == {}


class TestIsDynamic:
    def test_not_where_spark_has_one_executor_and_passes_it_over(self):
        assert not allocation.is_dynamic("local[4]", ON)
        assert not allocation.is_dynamic("local", ON)
        assert allocation.is_dynamic("local-cluster[2,2,1024]", ON)
        assert allocation.is_dynamic("spark://host:7077", ON)


class TestCheck:
    @pytest.mark.parametrize(
        ("spec", "master", "conf", "words"),
        [
            (SIZED, "local[5]", {}, r"--ps-memory .*local\[5\] has one for all: leave it out"),
            (SIZED, "yarn", {}, r"--ps-memory .*spark\.dynamicAllocation\.enabled=true"),
            (SIZED, "yarn", ON, r"--worker-gpus .* set spark\.executor\.resource\.gpu\.disc"),
            (
                SIZED,
                "k8s://host",
                {**ON, "spark.executor.resource.gpu.discoveryScript": "/x"},
                r"set spark\.executor\.resource\.gpu\.vendor,",
            ),
            (
                JobSpec.of(num_workers=3, worker_cores=2),
                "yarn",
                {**ON, "spark.dynamicAllocation.maxExecutors": "2"},
                r"the worker roles are 3 tasks, and spark\.dynamicAllocation\.maxExecutors is 2",
            ),
            (
                JobSpec.of(num_workers=3),
                "yarn",
                {**ON, "spark.dynamicAllocation.maxExecutors": "1", "spark.executor.cores": "3"},
                "the train roles are 4 tasks",
            ),
            (
                JobSpec.of(ps_memory="1200m"),
                "yarn",
                {**ON, "spark.executor.pyspark.memory": "500"},
                r"1200 MiB have 188 MiB .* 580 .*spark\.executor\.pyspark\.memory 500 MiB",
            ),
        ],
    )
    def test_what_cannot_be_given(self, spec, master, conf, words):
        with pytest.raises(PreflightError, match=words):
            allocation.check(spec, master, conf)

    @pytest.mark.parametrize(
        ("spec", "master", "conf"),
        [
            (JobSpec.of(), "local[4]", {}),
            (JobSpec.of(), "yarn", ON),
            (SIZED, "spark://host:7077", ON),
            (
                JobSpec.of(num_workers=3),
                "yarn",
                {**ON, "spark.dynamicAllocation.maxExecutors": "2", "spark.executor.cores": "2"},
            ),
        ],
    )
    def test_what_can(self, spec, master, conf):
        allocation.check(spec, master, conf)


class TestRequest:
    def test_of_a_container_is_all_of_its_memory(self):
        request = request_of(Size(32 << 10, 4), "yarn", {"spark.executor.memory": "20g"})
        assert request == Request(4, 0, 512, (32 << 10) - 512)

    def test_leaves_room_for_what_spark_adds(self):
        conf = {
            "spark.executor.pyspark.memory": "1g",
            "spark.memory.offHeap.enabled": "true",
            "spark.memory.offHeap.size": "256m",
        }
        assert request_of(Size(4096), "k8s://h", conf).overhead_mb == 4096 - 512 - 1024 - 256

    def test_elsewhere_is_the_jvms_which_is_all_that_counts(self):
        assert request_of(Size(4096), "spark://h:1", {}) == Request(1, 0, 4096)

    def test_without_memory_leaves_it_and_takes_all_cores_of_an_executor(self):
        request = request_of(Size(gpus=1), "yarn", {"spark.executor.cores": "4"})
        assert request == Request(4, 1)


@pytest.mark.parametrize(
    ("conf", "words"),
    [
        ({}, None),
        ({"spark.executor.instances": "2"}, None),
        ({"spark.executor.instances": "3"}, "is 3, .* each size: leave it out .--num-executors"),
        ({"spark.dynamicAllocation.minExecutors": "5"}, "minExecutors is 5"),
    ],
)
def test_executors_that_no_role_asks_for(conf, words):
    problem = allocation.what_is_too_many(SIZED, conf)
    assert problem is None if words is None else re.search(words, problem)
    assert allocation.what_is_too_many(JobSpec.of(), conf) is None


def test_what_is_asked_for_in_words():
    assert allocation.describe(SIZED) == (
        "2 ps (32 GiB), 1 chief (as the other executors), 2 worker (8 GiB, 1 GPU)"
    )
    assert str(Size(1500, 1, 2)) == "1500 MiB, 1 core, 2 GPUs"

"""JobSpec, and the spellings of its fields as flags, conf keys and arguments."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest

from tfos.errors import UsageError
from tfos.spec.job import SUBMISSION_CONF, JobSpec, app_stem, job_spec, new_run_id, options
from tfos.spec.options import conf_key, flag
from tfos.strategies.ps.topology import ParameterServers


class TestSpellings:
    @pytest.mark.parametrize(
        ("name", "key"),
        [
            ("lake", "spark.tfos.lake"),
            ("num_ps", "spark.tfos.numPs"),
            ("run_id", "spark.tfos.runId"),
            ("start_timeout_secs", "spark.tfos.startTimeoutSecs"),
            ("hang_secs", "spark.tfos.hangSecs"),
        ],
    )
    def test_conf_key_is_camel_case(self, name, key):
        assert conf_key(name) == key

    def test_flag_has_dashes(self):
        assert flag("start_timeout_secs") == "--start-timeout-secs"

    def test_options_are_those_of_every_run_and_of_any_strategy(self):
        fields = {f.name for f in dataclasses.fields(JobSpec)} - {"topology", "params"}
        assert {option.name for option in options()} == fields | {
            *("strategy", "num_ps", "num_workers", "staleness", "ps_memory", "ps_cores"),
            *("worker_memory", "worker_cores", "worker_gpus"),
            *("chief_memory", "chief_cores", "chief_gpus", "mpi"),
        }

    def test_each_option_has_a_help_text(self):
        assert all(option.metadata["help"] for option in options())

    def test_no_two_options_share_a_conf_key(self):
        keys = [conf_key(option.name) for option in options()]
        assert len(set(keys)) == len(keys)


class TestJobSpec:
    def test_defaults_are_one_server_and_two_workers(self):
        spec = JobSpec.of()
        assert (spec.strategy, spec.topology) == ("ps", ParameterServers(1, 2))

    def test_recovery_is_on_by_default(self):
        spec = JobSpec.of()
        assert (spec.max_restarts, spec.hang_secs, spec.fork) == (10, 300.0, "on")

    def test_is_frozen(self):
        with pytest.raises(dataclasses.FrozenInstanceError):
            JobSpec.of().max_restarts = 3

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("strategy", "horovod"),
            ("num_ps", 0),
            ("num_ps", -1),
            ("num_workers", 0),
            ("checkpoint_secs", 0.0),
            ("checkpoint_secs", float("nan")),
            ("start_timeout_secs", -2.5),
            ("max_restarts", -1),
            ("hang_secs", -0.5),
            ("hang_secs", float("nan")),
            ("fork", "yes"),
            ("overlap", "yes"),
            ("fork", ""),
            ("run_id", "-begins-with-a-dash"),
            ("run_id", "a/b"),
            ("run_id", ".."),
            ("run_id", "a b"),
            ("run_id", "x" * 129),
            ("run_id", "newline\n"),
        ],
    )
    def test_bad_value_is_named_with_its_flag_argument_and_conf_key(self, name, value):
        with pytest.raises(UsageError) as caught:
            JobSpec.of(**{name: value})
        message = str(caught.value)
        shown = repr(value) if isinstance(value, str) else str(value)
        assert shown in message
        assert flag(name) in message
        assert conf_key(name) in message
        assert f"run({name}=" in message

    def test_zero_turns_off(self):
        spec = JobSpec.of(max_restarts=0, hang_secs=0.0)
        assert (spec.max_restarts, spec.hang_secs) == (0, 0.0)

    @pytest.mark.parametrize("spare", ["", "auto", "on", "off"])
    def test_spare_is_taken_as_before(self, spare):
        assert JobSpec.of(spare=spare).spare == spare

    def test_bad_spare_lists_the_good_ones(self):
        with pytest.raises(UsageError, match=r"auto.*on.*off"):
            JobSpec.of(spare="maybe")

    def test_empty_lake_is_refused(self):
        with pytest.raises(UsageError, match="--lake"):
            JobSpec.of(lake="")

    def test_resume_needs_a_run_id(self):
        with pytest.raises(UsageError, match=r"--resume.*--run-id"):
            JobSpec.of(resume=True)
        assert JobSpec.of(resume=True, run_id="r").resume

    def test_counts_do_not_matter_to_a_single_process(self):
        assert JobSpec.of(strategy="single", num_ps=0, num_workers=0).strategy == "single"

    def test_too_few_workers_points_at_single(self):
        with pytest.raises(UsageError, match="--strategy single"):
            JobSpec.of(num_workers=0)

    @pytest.mark.parametrize("run_id", ["a", "7", "My.run_1-b", "x" * 128])
    def test_good_run_ids(self, run_id):
        assert JobSpec.of(run_id=run_id).run_id == run_id

    def test_json_round_trip(self):
        spec = JobSpec.of(num_ps=3, lake="s3://b/x", params={"k": 5, "deep": [1, "two"]})
        assert JobSpec.of(**json.loads(json.dumps(spec.as_json()))) == spec


class TestJobSpecOfConfAndArguments:
    def test_nothing_given_gives_the_defaults(self):
        assert job_spec({}, {}) == JobSpec.of()

    def test_conf_text_becomes_typed_values(self):
        spec = job_spec(
            {
                "spark.tfos.numPs": "2",
                "spark.tfos.checkpointSecs": "1.5",
                "spark.tfos.resume": "True",
                "spark.tfos.runId": "r1",
                "spark.tfos.zookeeper": "a:2181",
            },
            {},
        )
        assert spec == JobSpec.of(
            num_ps=2, checkpoint_secs=1.5, resume=True, run_id="r1", zookeeper="a:2181"
        )
        assert type(spec.topology.num_ps) is int
        assert type(spec.resume) is bool

    def test_whole_number_is_taken_for_seconds(self):
        spec = job_spec({}, {"checkpoint_secs": 3})
        assert (spec.checkpoint_secs, type(spec.checkpoint_secs)) == (3.0, float)

    def test_arguments_win_over_conf(self):
        spec = job_spec({"spark.tfos.numPs": "2", "spark.tfos.numWorkers": "5"}, {"num_ps": 7})
        assert spec.topology == ParameterServers(7, 5)

    def test_argument_that_is_none_leaves_the_conf(self):
        assert job_spec({"spark.tfos.numPs": "2"}, {"num_ps": None}).topology.num_ps == 2

    def test_false_argument_wins_over_true_conf(self):
        conf = {"spark.tfos.resume": "true", "spark.tfos.runId": "r"}
        assert job_spec(conf, {"resume": False}).resume is False

    def test_recovery_from_conf_and_arguments(self):
        conf = {"spark.tfos.hangSecs": "0", "spark.tfos.fork": "off"}
        spec = job_spec(conf, {"max_restarts": 1})
        assert (spec.hang_secs, spec.fork, spec.max_restarts) == (0.0, "off", 1)
        assert type(spec.hang_secs) is float

    def test_name_of_the_submission_is_no_option(self):
        assert SUBMISSION_CONF == "spark.tfos.submission"
        assert job_spec({SUBMISSION_CONF: "0a1b"}, {}) == JobSpec.of()
        with pytest.raises(UsageError, match="submission"):
            job_spec({}, {"submission": "0a1b"})

    def test_other_conf_keys_are_passed_over(self):
        conf = {"spark.master": "local[2]", "spark.tfosomething.x": "1"}
        assert job_spec(conf, {}) == JobSpec.of()

    @pytest.mark.parametrize(
        ("name", "text", "wanted"),
        [
            ("num_ps", "two", "a whole number"),
            ("num_ps", "1.5", "a whole number"),
            ("num_ps", "", "a whole number"),
            ("checkpoint_secs", "soon", "a number"),
            ("resume", "yes", "true or false"),
        ],
    )
    def test_bad_conf_text_names_key_value_and_what_is_wanted(self, name, text, wanted):
        with pytest.raises(UsageError) as caught:
            job_spec({conf_key(name): text}, {})
        message = str(caught.value)
        for part in (conf_key(name), repr(text), flag(name), wanted):
            assert part in message

    @pytest.mark.parametrize("value", [1.0, True, "x", [1]])
    def test_bad_argument_names_the_argument(self, value):
        with pytest.raises(UsageError, match=re.escape(f"run(num_ps=...) is {value!r}")):
            job_spec({}, {"num_ps": value})

    def test_unknown_tfos_key_is_refused_and_the_known_are_listed(self):
        with pytest.raises(UsageError) as caught:
            job_spec({"spark.tfos.numPS": "1"}, {})
        assert "spark.tfos.numPS" in str(caught.value)
        assert "spark.tfos.numPs" in str(caught.value)

    def test_unknown_argument_is_refused_and_the_known_are_listed(self):
        with pytest.raises(UsageError) as caught:
            job_spec({}, {"ps": 1})
        assert "'ps'" in str(caught.value)
        assert "'num_ps'" in str(caught.value)

    def test_range_is_checked_for_conf_values_too(self):
        with pytest.raises(UsageError, match="--num-workers"):
            job_spec({"spark.tfos.numWorkers": "0"}, {})


class TestParams:
    def test_conf_params_keep_their_case(self):
        spec = job_spec({"spark.tfos.param.learningRate": "0.1", "spark.tfos.param.a.b": "c"}, {})
        assert spec.params == {"learningRate": 0.1, "a.b": "c"}

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            *(("3", 3), ("-0.5", -0.5), ("1e-3", 0.001), ("true", True), ("null", None)),
            *(('"3"', "3"), ('[1, "a"]', [1, "a"]), ('{"a": 1}', {"a": 1})),
            *(("abc", "abc"), ("True", "True"), ("1.2.3", "1.2.3"), ("", ""), ("a=b", "a=b")),
            *(("NaN", "NaN"), ("-Infinity", "-Infinity"), ("1e999", "1e999"), ("007", "007")),
        ],
    )
    def test_text_is_json_where_it_is_json(self, text, value):
        (found,) = job_spec({"spark.tfos.param.k": text}, {}).params.values()
        assert (found, type(found)) == (value, type(value))

    def test_argument_params_win_and_keep_their_types(self):
        conf = {"spark.tfos.param.a": "1", "spark.tfos.param.b": "2"}
        spec = job_spec(conf, {"params": {"a": [1], "c": "3", "d": (1, {"e": None})}})
        assert spec.params == {"a": [1], "b": 2, "c": "3", "d": [1, {"e": None}]}
        assert job_spec(conf, {"params": None}).params == {"a": 1, "b": 2}

    @pytest.mark.parametrize(
        ("value", "told"),
        [
            (np.int64(3), r"np.int64\(3\) \(int64\)"),
            ({1, 2}, r"\{1, 2\} \(set\)"),
            (float("nan"), "nan"),
            ([1, {"deep": b"x"}], r"b'x' \(bytes\)"),
            ({0: 1.0}, "the key 0"),
        ],
    )
    def test_what_json_cannot_hold_is_named(self, value, told):
        with pytest.raises(UsageError, match=rf"'class_weight' has {told}, which JSON cannot"):
            job_spec({}, {"params": {"a": 1, "class_weight": value}})

    @pytest.mark.parametrize("params", [{3: "a"}, [("a", 1)], "a=1"])
    def test_params_are_a_dict_by_name(self, params):
        with pytest.raises(UsageError, match=r"run\(params=\.\.\.\)"):
            job_spec({}, {"params": params})


class TestNewRunId:
    @pytest.mark.parametrize(
        ("name", "stem"),
        [
            ("MyApp", "myapp"),
            ("my app/v2", "my-app-v2"),
            ("../..", "run"),
            ("", "run"),
            ("Übung 1", "bung-1"),
            ("x" * 500, "x" * 60),
        ],
    )
    def test_is_valid_and_begins_with_the_apps_name(self, name, stem):
        run_id = new_run_id(name)
        assert JobSpec.of(run_id=run_id).run_id == run_id
        assert re.fullmatch(re.escape(stem) + r"-\d{8}-\d{6}-[0-9a-f]{4}", run_id)
        assert app_stem(name) == stem

    def test_two_in_the_same_second_differ(self):
        # 4 hex digits: five in a row are all different but for one case in 6,500; all alike never
        assert len({new_run_id("app") for _ in range(5)}) > 1

"""What is refused, with the reason, before a step is made. Other workers are told of, not asked."""

from __future__ import annotations

import keras
import pytest
import tensorflow as tf
from worlds import assert_same_weights
from zoo import CASES, TRAIN, Newest, as_tf_data, functional

from tfos.errors import UsageError
from tfos.training.checks import check_graph, check_model
from tfos.training.program import AppliedRows, Program
from tfos.training.single import SingleRunner
from tfos.training.step import Step, prepare

pytest_plugins = ["world_fixtures"]
pytestmark = pytest.mark.usefixtures("quick_tensorflow")


class TestRefusals:
    """Whatever the strategy."""

    def refused(self, world, model, match, **options):
        with pytest.raises(UsageError, match=match):
            world.fit(model, **options)
        assert world.ledger.as_json() == {}

    def test_not_compiled(self, world):
        model = keras.Sequential([keras.Input([3]), keras.layers.Dense(1)], name="plain")
        self.refused(world, model, "'plain'.*compile")
        with pytest.raises(UsageError, match=r"'plain'.*compile"):
            world.context().evaluate(model, world.dataset())

    def test_run_eagerly(self, world):
        self.refused(world, functional(run_eagerly=True), "run_eagerly.*tf.print")

    def test_functions_that_run_eagerly(self, world):
        tf.config.run_functions_eagerly(True)
        try:
            self.refused(world, functional(), "run_functions_eagerly")
        finally:
            tf.config.run_functions_eagerly(False)

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"epochs": -1}, "epochs is -1"),
            ({"steps_per_execution": 0}, "steps_per_execution is 0"),
            ({"steps_per_epoch": 0}, "steps_per_epoch is 0"),
            ({"initial_epoch": -1}, "initial_epoch is -1"),
            ({"validation_freq": 0}, "validation_freq is 0"),
        ],
        ids=str,
    )
    def test_numbers_that_make_no_sense(self, world, options, match):
        self.refused(world, functional(), match, **options)

    def test_jit_compile_is_left_out_with_a_warning(self, world, caplog):
        model, expected = functional(jit_compile=True), functional()
        world.fit(model)
        assert "jit_compile=True: its steps run without XLA" in caplog.text
        expected.fit(as_tf_data(TRAIN), verbose=0)
        assert_same_weights(model, expected, 1e-5)


class Several(SingleRunner):
    """Says that there are more workers. asynchronous: under parameter servers, else in step."""

    def __init__(self, asynchronous):
        super().__init__()
        self.parallelism, self.replicas = (2, 1) if asynchronous else (1, 2)
        if asynchronous:
            self.is_asynchronous = True


def recurrent(stateful):
    rows = keras.Input([2, 3], batch_size=4)
    model = keras.Model(rows, keras.layers.GRU(2, stateful=stateful)(rows))
    model.compile("sgd", "mse")
    return model


def test_stateful_layer_is_for_one_worker():
    in_step = Several(asynchronous=False)
    check_model(recurrent(True), SingleRunner(), needs_compile=True)
    check_model(recurrent(False), in_step, needs_compile=True)
    with pytest.raises(UsageError, match=r"layer gru.* is stateful.*--num-workers 1"):
        check_model(recurrent(True), in_step, needs_compile=True)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("accumulated", "gradient_accumulation_steps=3, which only --strategy single"),
        ("scaled", "scales the loss, for mixed_float16.*mixed_bfloat16"),
    ],
)
def test_optimizer_with_conditions_is_for_one_process(name, match):
    model = CASES[name].make()
    check_model(model, SingleRunner(), needs_compile=True)
    in_step = Several(asynchronous=False)
    with pytest.raises(UsageError, match=match):
        check_model(model, in_step, needs_compile=True)
    check_model(model, in_step, needs_compile=False)  # predict() makes no step


@pytest.mark.parametrize("function", [tf.py_function, tf.numpy_function])
def test_python_in_the_graph_is_for_the_process_that_made_it(function):
    @tf.function(input_signature=[tf.TensorSpec([])])
    def nested(x):
        return tf.cond(x > 0, lambda: function(lambda x: x, [x], tf.float32), lambda: x)

    graph = nested.get_concrete_function().graph
    check_graph(functional(), graph, SingleRunner())
    check_graph(functional(), graph, Several(asynchronous=False))
    with pytest.raises(UsageError, match="calls Python"):
        check_graph(functional(), graph, Several(asynchronous=True))


@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.layers.Dense(2, kernel_constraint="non_neg"),
        lambda: keras.layers.SpectralNormalization(keras.layers.Dense(2)),
    ],
)
def test_weights_that_a_step_assigns_are_for_one_worker(world, make):
    model = functional(make(), metrics=[])
    dataset = world.dataset()
    step = prepare(model, dataset, SingleRunner())
    applied = AppliedRows(SingleRunner())
    Program(step, dataset, SingleRunner(), applied).function.get_concrete_function()
    with pytest.raises(UsageError, match=r"kernel.*would overwrite what other workers add"):
        program = Program(step, dataset, Several(asynchronous=True), applied)
        program.function.get_concrete_function()
    # evaluating assigns nothing, or what is there
    test = Step(model, "test_step")
    Program(test, dataset, Several(asynchronous=True)).function.get_concrete_function()


def test_metric_that_keeps_no_sum_is_for_one_process(world):
    model, dataset = functional(metrics=[Newest()]), world.dataset()
    train = prepare(model, dataset, SingleRunner())
    applied = AppliedRows(SingleRunner())
    for step, counted in ((train, applied), (Step(model, "test_step"), None)):
        Program(step, dataset, SingleRunner(), counted).function.get_concrete_function()
        program = Program(step, dataset, Several(asynchronous=True), counted)
        with pytest.raises(UsageError, match=r"metric state newest/value .* is no sum"):
            program.function.get_concrete_function()


def test_variable_of_nobody_is_named(world):
    stray = keras.Variable(0.0, name="stray")

    class Model(keras.Model):
        def train_step(self, data):
            stray.assign_add(1.0)
            return super().train_step(data)

    inputs = {"x": keras.Input([3], name="x")}
    model = Model(inputs, keras.layers.Dense(1)(inputs["x"]))
    model.compile("sgd", "mse")
    with pytest.raises(UsageError, match="assigns stray, which neither the model nor"):
        world.fit(model)

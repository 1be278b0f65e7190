"""What tfos needs of TensorFlow, Keras and Spark beside their public names is where it was.

Each test says what a new version breaks when it fails.
"""

from __future__ import annotations

import errno
import inspect
import mmap
import os
import re
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import keras
import pytest
import tensorflow as tf

from tfos.compat import keras as keras_names
from tfos.compat import peer, texts
from tfos.compat import spark as spark_names
from tfos.compat import tensorflow as names
from tfos.errors import TFOSError
from tfos.runtime.java import spark_home
from tfos.spec.roles import Task


class TestSpark:
    def test_the_application_master_has_the_conf_that_it_reads_at_its_end(self):
        """Else YARN starts a driver again, some times, whose run has ended for good."""
        (jar,) = (spark_home() / "jars").glob("spark-yarn_*.jar")
        path = spark_names.APPLICATION_MASTER.replace(".", "/")
        with zipfile.ZipFile(jar) as classes:
            field = f"L{path};".encode()
            assert field in classes.read(f"{path}$.class")
            field = f"L{spark_names.CONF.replace('.', '/')};".encode()
            assert field in classes.read(f"{path}.class")
            assert b"getMaxRegAttempts" in classes.read(f"{path}.class")

    @pytest.mark.parametrize(
        ("master", "named", "environ", "expected"),
        [
            ("local[4]", "python3", {}, sys.executable),
            ("local-cluster[2,1,1024]", "python3", {}, sys.executable),
            ("local[4]", "python3.12", {}, "python3.12"),
            ("local[4]", "python3", {"PYSPARK_PYTHON": "python3"}, "python3"),
            ("spark://a:7077", "python3", {}, "python3"),
        ],
    )
    def test_python_that_nobody_named(self, monkeypatch, master, named, environ, expected):
        monkeypatch.delenv("PYSPARK_PYTHON", raising=False)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        context = SimpleNamespace(master=master, pythonExec=named)
        with spark_names.own_python(SimpleNamespace(_sc=context)):
            assert context.pythonExec == expected
        assert context.pythonExec == named
        with spark_names.own_python(object()):  # of Spark Connect, which has no such name
            pass

    def test_python_is_read_when_a_function_is_sent(self):
        """Else a notebook's local session runs under the first python3 of PATH."""
        from pyspark.core import rdd
        from pyspark.sql import udf

        for module in (rdd, udf):
            assert "sc.pythonExec" in inspect.getsource(module._wrap_function)


class TestTensorFlow:
    def test_function_registered_by_a_token_is_what_py_func_calls(self):
        """Else workers cannot read feeds."""

        def seven(value):
            return value + 7

        names.python_functions()["tfos-test"] = seven
        (found,) = tf.raw_ops.PyFunc(input=[tf.constant(1)], token="tfos-test", Tout=[tf.int32])
        assert int(found) == 8

    def test_users_functions_are_converted_where_our_own_are_not(self):
        """Else `if` on a tensor fails in map(), in steps of one's own and in run_epoch()."""

        def size(x):
            if x < 0:
                x = -x
            return x

        unconverted = tf.function(size, autograph=False)
        with pytest.raises(TypeError, match="Python `bool`"):
            unconverted(tf.constant(-2))
        call = tf.function(lambda x: names.converted(size)(x), autograph=False)
        assert int(call(tf.constant(-2))) == 2

    def test_gradient_of_ones_own(self):
        """Else each lookup asks the server for its table's shape."""
        record_operation, stop_recording = names.gradient_recording()
        x = tf.Variable(3.0)
        with tf.GradientTape() as tape:
            read = x.read_value()
            with stop_recording():
                y = tf.identity(read)
            record_operation("doubled", [y], [x.handle], lambda up: [up * 5.0])
        assert float(tape.gradient(y, x)) == 5.0

    def test_coordination_service_can_be_configured(self):
        """Else a process in step counts as dead after 10 s, whatever --hang-secs says."""
        assert callable(names.coordination_context().configure_coordination_service)

    def test_parameter_servers_are_counted(self, monkeypatch):
        """Else tables are not divided over them."""
        assert names.number_of_servers() == 1
        strategy = object.__new__(tf.distribute.ParameterServerStrategy)
        source = Path(tf.__file__).parent / "python/distribute/parameter_server_strategy_v2.py"
        assert "self._num_ps = " in source.read_text()
        monkeypatch.setattr(tf.distribute, "get_strategy", lambda: strategy)
        strategy._extended = type("Extended", (), {"_num_ps": 3})()
        assert names.number_of_servers() == 3
        strategy._extended = object()
        with pytest.raises(TFOSError, match="counts parameter servers elsewhere"):
            names.number_of_servers()

    def test_variable_in_slices_is_saved_as_one(self, tmp_path):
        """Else a checkpoint of a divided table cannot be restored with other servers."""
        halves = [tf.Variable([[1.0], [2.0]]), tf.Variable([[3.0]])]
        whole = names.sharded_variable()(halves)
        path = tf.train.Checkpoint(table=whole).write(str(tmp_path / "c"))
        (shape,) = [s for name, s in tf.train.list_variables(path) if name.startswith("table")]
        assert shape == [3, 1]


class TestKeras:
    def test_layers_inside_layers(self):
        """Else stateful layers are not refused under several workers."""
        inner = keras.Sequential([keras.layers.Dense(2)], name="inner")
        model = keras.Sequential([keras.Input((3,)), inner])
        found = {layer.name for layer in keras_names.all_layers(model)}
        assert {"inner", inner.layers[0].name} <= found

    def test_weights_of_an_optimizer(self):
        """Else slots of divided tables are not told from others in checkpoints."""
        weight = keras.Variable([1.0])
        optimizer = keras.optimizers.Adam()
        optimizer.build([weight])
        assert keras_names.own_trainable_variables(optimizer) == [weight]
        first, second = keras_names.adam_moments(optimizer, weight)
        assert {v.value.ref() for v in optimizer.variables} >= {first.ref(), second.ref()}

    def test_gradients_reach_the_variables_through_what_is_replaced(self):
        """Else processes in step clip before they sum up."""
        weight, seen = keras.Variable([1.0]), []
        optimizer = keras.optimizers.SGD(1.0)
        optimizer.build([weight])

        def apply(self, gradients, variables):
            seen.append(len(gradients))
            keras_names.apply_gradients(self, gradients, variables)

        place = "backend.tensorflow.optimizer:TFOptimizer"
        with keras_names.replaced(place, _backend_apply_gradients=apply):
            optimizer.apply([tf.constant([0.25])], [weight])
        assert seen == [1]
        assert float(weight[0]) == 0.75

    @pytest.mark.parametrize(
        "function", ["scale_loss_for_distribution", "unscale_loss_for_distribution"]
    )
    def test_losses_are_scaled_where_we_keep_keras_from_it(self, function):
        """Else steps in step weight rows twice."""
        with keras_names.replaced("losses.loss", **{function: lambda value: value}):
            pass

    def test_what_was_inherited_is_inherited_again(self):
        """Else what is replaced in the base later has no effect."""
        place = "optimizers.sgd:SGD"
        assert "apply" not in vars(keras.optimizers.SGD)
        with keras_names.replaced(place, apply=None):
            assert keras.optimizers.SGD.apply is None
        assert "apply" not in vars(keras.optimizers.SGD)

    def test_a_place_that_is_gone_is_named(self):
        with (
            pytest.raises(TFOSError, match=rf"Keras {re.escape(keras.__version__)}.*nowhere"),
            keras_names.replaced("nowhere", x=None),
        ):
            pass

    def test_variables_are_of_one_class(self):
        """Else Keras's Embedding reads whole tables from parameter servers."""
        assert isinstance(keras.Variable(1.0), keras_names.variable_class())


# of a chief under parameter servers, when a worker's connection to a server was cut
CUT_OFF = """\
UnavailableError: Graph execution error:

Detected at node Read/ReadVariableOp/_2 defined at (most recent call last):
<stack traces unavailable>
2 root error(s) found.
  (0) UNAVAILABLE:  failed to connect to all addresses; last error: UNAVAILABLE: ipv4:127.0.0.1:50171: recvmsg:Connection reset by peer
Additional GRPC error information from remote target /job:ps/replica:0/task:1/device:CPU:0 while calling /tensorflow.eager.EagerService/RunComponentFunction:
:UNKNOWN:Error received from peer  {grpc_status:14, grpc_message:"failed to connect to all addresses; last error: UNAVAILABLE: ipv4:127.0.0.1:50171: recvmsg:Connection reset by peer"}
  (1) UNAVAILABLE:  failed to connect to all addresses; last error: UNAVAILABLE: ipv4:127.0.0.1:50171: recvmsg:Connection reset by peer
Additional GRPC error information from remote target /job:ps/replica:0/task:1 while calling /tensorflow.WorkerService/RecvTensor:
0 successful operations.
0 derived errors ignored.
Additional GRPC error information from remote target /job:worker/replica:0/task:12 while calling /tensorflow.eager.EagerService/Enqueue:
:UNKNOWN:Error received from peer  {grpc_status:14, grpc_message:"2 root error(s) found.\\n  (0) UNAVAILABLE:  failed to connect to all addresses; last error: UNAVAILABLE: ipv4:127.0.0.1:50171: recvmsg:Connection reset by peer\\nAdditional GRPC error information from remote target /job:ps/replica:0/task:1/device:CPU:0 while calling /tensorflow.eager.EagerService/RunComponentFunction:\\n"} [Op:__inference_f_18]
"""  # noqa: E501


class TestPeer:
    """Else who cannot reach a server stays, and all others are restarted again and again."""

    def test_who_tells_of_another_that_lost_its_peer(self):
        lost = peer.lost_peer(CUT_OFF)
        assert lost == peer.Lost(Task("ps", 1), by=Task("worker", 12))

    def test_each_lost_the_other(self):
        """What the server says comes first, as it is farther away."""
        call = next(line for line in CUT_OFF.splitlines() if "RecvTensor" in line)
        back = call.replace("/job:ps/replica:0/task:1", "/job:worker/replica:0/task:12")
        lost = peer.lost_peer(CUT_OFF.replace("Additional", f"{back}\nAdditional", 1))
        assert lost == peer.Lost(Task("ps", 1), by=Task("worker", 12))

    def test_who_lost_it_itself(self):
        (call,) = [line for line in CUT_OFF.splitlines() if "RecvTensor" in line]
        assert peer.lost_peer(f"UnavailableError: Socket closed\n{call}") == peer.Lost(
            Task("ps", 1), by=None
        )

    def test_words_that_name_nobody(self):
        assert peer.lost_peer("AbortedError: Collective ops is aborted by: [...]") is None

    def test_tensorflow_tells_servers_by_these_words(self):
        from tensorflow.python.distribute.coordinator import cluster_coordinator

        assert f"{peer.HOP_WORDS}/job:ps" == cluster_coordinator._RPC_ERROR_FROM_PS


class TestTexts:
    """Else a peer's death is taken for an error of the user's, and ends the run."""

    @pytest.fixture(scope="class")
    def libraries(self):
        root = Path(tf.__file__).parent
        files = [*root.glob("libtensorflow_*.so.2"), root / "python/_pywrap_tensorflow_internal.so"]
        maps = []
        for path in files:
            if path.exists():
                with open(path, "rb") as file:
                    maps.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        yield maps
        for each in maps:
            each.close()

    @pytest.mark.parametrize(
        "words", [*texts.PEER_WORDS.pattern.split("|"), texts.DISAGREE_WORDS.pattern]
    )
    def test_tensorflow_has_these_words(self, libraries, words):
        system = [os.strerror(number).encode() for number in (errno.ECONNRESET, errno.ECONNREFUSED)]
        assert any(each.find(words.encode()) >= 0 for each in [*libraries, *system]), words

    def test_tensorflow_has_these_exceptions(self):
        from tensorflow.python.distribute.coordinator import cluster_coordinator

        classes = {**vars(tf.errors), **vars(cluster_coordinator)}
        assert set(texts.PEER_ERRORS) <= classes.keys()

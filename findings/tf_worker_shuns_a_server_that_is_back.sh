#!/usr/bin/env bash
# A TensorFlow worker calls a parameter server unreachable that is back, and listens, at its port.
#
# Version: TensorFlow 2.21.0 (ParameterServerStrategy, ClusterCoordinator, gRPC), Python 3.10 to 3.13.
# Expected: a parameter server that died is started again at its port; a new coordinator, whose own
#   calls of that server succeed, can use it through the worker as well. A connection that was
#   refused is tried again when there is something to send.
# Seen: the new coordinator's first function fails with UnavailableError, mostly "Connection refused":
#   what the worker was told before. gRPC keeps off an address that refused it for a second, across
#   the contexts of coordinators, and TensorFlow's calls fail meanwhile; a second or two later they
#   work. A restart that takes longer than that never shows it; a faster one fails.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet tensorflow==2.21.0
cd "$work"
cat > try.py <<'PY'
import json
import os
import socket
import subprocess
import sys
import time

os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1")


def say(**what):
    print(json.dumps(what), flush=True)


def role(kind, cluster):
    """Imports, waits for a line on stdin, and then is a server or a coordinator."""
    import tensorflow as tf

    say(imported=True)
    sys.stdin.readline()
    spec = tf.train.ClusterSpec(cluster)
    if kind in ("ps", "worker"):
        server = tf.distribute.Server(spec, job_name=kind, task_index=0, protocol="grpc")
        say(up=True)
        server.join()
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        spec, task_type="chief", task_id=0, rpc_layer="grpc"
    )
    strategy = tf.distribute.ParameterServerStrategy(resolver)
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    with strategy.scope():
        variable = tf.Variable(1.0)
    say(own_call=float(variable.read_value()))

    @tf.function(input_signature=[])
    def step():
        return variable.assign_add(1.0)

    begun = time.time()
    while True:
        try:
            coordinator.schedule(step).fetch()
            say(error=None, after=round(time.time() - begun, 1))
        except Exception as error:
            words = str(error).partition("\nAdditional")[0].splitlines()[-1][-120:]
            say(error=type(error).__name__, after=round(time.time() - begun, 1), words=words)
            if kind != "next":
                os._exit(0)
        time.sleep(0.3 if kind == "next" else 0)


def main():
    ports = []
    for _ in range(3):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    kinds = ("ps", "worker", "chief")
    cluster = {kind: [f"127.0.0.1:{port}"] for kind, port in zip(kinds, ports)}

    def start(kind):
        process = subprocess.Popen(
            [sys.executable, __file__, kind, json.dumps(cluster)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )
        process.stdout.readline()  # it has imported
        return process

    def go(process):
        process.stdin.write("\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    processes = [start(kind) for kind in ("ps", "worker", "first", "ps", "next")]
    server, worker, first, server_again, second = processes
    try:
        for process in (server, worker, first):
            go(process)
        for _ in range(50):
            assert json.loads(first.stdout.readline())["error"] is None
        server.kill()
        server.wait()
        first.wait()  # it has told of its error
        go(server_again)
        own = go(second)
        said = [json.loads(second.stdout.readline())]
        while said[-1]["error"] and said[-1]["after"] < 30:
            said.append(json.loads(second.stdout.readline()))
        print("the new coordinator's own call:", own)
        print("its function on the worker:", said[0])
        print("the first one that works:", said[-1])
        assert own == {"own_call": 1.0}
        assert said[0]["error"] == "UnavailableError", "a worker uses the server at once now"
        assert said[-1]["error"] is None
    finally:
        for process in processes:
            process.kill()
            process.wait()


role(sys.argv[1], json.loads(sys.argv[2])) if len(sys.argv) > 1 else main()
PY
"$work/venv/bin/python" try.py

#!/usr/bin/env bash
# With SyncReplicasOptimizer, TF1's chief takes all of stop_grace_period_secs to leave its session.
#
# Versions: tensorflow 2.21.0.
# Expected: MonitoredTrainingSession is left at once after its last step, as it is with any other
#   optimizer.
# Seen: it takes the whole time that the session may give its threads, by default two minutes, each
#   time: the optimizer's queue runner waits for gradients that nobody makes any more, and closing its
#   queue does not end that. Then the session is closed all the same, and nothing is wrong.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet tensorflow==2.21.0
cd "$work"
cat > try.py <<'PY'
import time

import tensorflow.compat.v1 as tf

tf.disable_v2_behavior()
GRACE_SECS = 8


def secs_to_leave(in_step):
    with tf.Graph().as_default():
        weight = tf.get_variable("weight", [])
        optimizer = tf.train.GradientDescentOptimizer(0.1)
        hooks = [tf.train.StopAtStepHook(last_step=10)]
        if in_step:
            optimizer = tf.train.SyncReplicasOptimizer(optimizer, 1, 1)
            hooks.append(optimizer.make_session_run_hook(True))
        train = optimizer.minimize((weight - 1) ** 2, tf.train.get_or_create_global_step())
        target = tf.train.Server.create_local_server().target
        with tf.train.MonitoredTrainingSession(
            target, hooks=hooks, stop_grace_period_secs=GRACE_SECS
        ) as session:
            while not session.should_stop():
                session.run(train)
            began = time.monotonic()
        return time.monotonic() - began


plain, in_step = secs_to_leave(False), secs_to_leave(True)
print(f"stop_grace_period_secs={GRACE_SECS}; leaving the session took")
print(f"{plain:.1f} s with the optimizer alone, {in_step:.1f} s in SyncReplicasOptimizer")
assert plain < 4 and in_step >= GRACE_SECS, "it leaves otherwise now"
PY
TF_CPP_MIN_LOG_LEVEL=3 "$work/venv/bin/python" try.py 2>/dev/null

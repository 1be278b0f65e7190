"""The guardian: a bare Python of a few megabytes that ends a process when its owner is gone.

It holds one end of a pipe, or of a socket; when the owner dies, however it dies, that closes, and
the guardian kills the process's group and removes its scratch directory. (dask/distributed's
process.py ends children by such a pipe; the guardian does it for children that are stopped, busy
in C, or not Python.)
"""

from __future__ import annotations

import sys

# Where a fork of the owner still holds the other end, its death is seen all the same: by a new
# parent, or, of an owner that is no parent, by its start time (proc(5), stat's field 22).
OWNED = """
import os, select, shutil, signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
def has_owner():
    if not born:
        return os.getppid() == owner
    try:
        with open(f"/proc/{owner}/stat", "rb") as file:
            state, *fields = file.read().rpartition(b")")[2].split()
        return state != b"Z" and fields[18].decode() == born
    except OSError:
        return False
children, wake = os.pipe()
os.set_blocking(wake, False)
signal.signal(signal.SIGCHLD, lambda *_: None)
signal.set_wakeup_fd(wake)
"""

# born: "" where the owner is this process's parent; else the process to guard is our child, of
# whose end the owner is told: its status, and negative for a signal.
_GUARDIAN = (
    """
import sys
group, owner, born, scratch = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
"""
    + OWNED
    + """
is_told, asked = not born, False
while not asked and has_owner():
    if not is_told:
        # not reaped before the owner has had its way: no other process gets the number
        ended = os.waitid(os.P_PID, group, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        if ended is not None:
            is_told = True
            status = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
            try:
                os.write(0, b"%d\\n" % status)
            except OSError:
                pass
    ready = select.select([0, children], [], [], 1.0)[0]
    if children in ready:
        os.read(children, 64)
    asked = 0 in ready
def asks():
    try:
        return os.read(0, 1)
    except OSError:
        return b""
if asked and asks() == b".":
    if born:
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.waitid(os.P_PID, group, os.WEXITED)
else:
    deadline = time.monotonic() + 10
    try:
        while time.monotonic() < deadline:
            os.killpg(group, signal.SIGKILL)
            if born:
                os.waitid(os.P_PID, group, os.WEXITED | os.WNOHANG)
            time.sleep(0.05)
    except (ProcessLookupError, ChildProcessError):
        pass
    # a process on its way out may still have written there
    deadline = time.monotonic() + 10
    while scratch and os.path.exists(scratch) and time.monotonic() < deadline:
        shutil.rmtree(scratch, ignore_errors=True)
"""
)


def born(pid: int) -> str:
    """When a process was started, as /proc/PID/stat has it; with its pid no other has it."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()[19].decode()


def guardian(group: int, owner: int, owner_born: str, scratch: str) -> list[str]:
    """The command of a guardian whose stdin is the owner's pipe or socket.

    group: the process to guard, which leads a process group of this number.
    owner_born: "" where the owner is the guardian's parent; else the process to guard is its child.
    scratch: a directory that goes with the owner; "" for none.
    """
    return bare(_GUARDIAN, str(group), str(owner), owner_born, scratch)


def bare(code: str, *args: str) -> list[str]:
    """The command of a Python that is up in milliseconds."""
    return [sys.executable, "-I", "-S", "-c", code, *args]

"""What runs in the processes of --strategy mxnet."""

import contextlib
import os
import threading

from tfos.strategies.gang import backend
from tfos.strategies.gang.world import free, reach


class Backend(backend.Gang):
    def run(self, host):
        self._number = {role: len(found) for role, found in host.addresses.items()}
        if host.task.role not in ("chief", "worker"):
            self._serve(host)
        return super().run(host)

    def _serve(self, host):
        """Does not return."""
        store = reach(host)
        if host.task.role == "scheduler":
            place = host.addresses["scheduler"][0].rpartition(":")[0]
            store.put("scheduler", free(place))
        os.environ.update(self._variables(host.task.role, store.wait("scheduler")))
        with contextlib.suppress(SystemExit):  # when all workers have ended
            import mxnet  # noqa: F401  it serves
        threading.Event().wait()  # the supervisor ends this process with the run

    def environment(self, world):
        return {**world.environment, **self._variables("worker", world.wait("scheduler"))}

    def _variables(self, role, root):
        place, _, port = root.rpartition(":")
        workers, servers = 1 + self._number.get("worker", 0), self._number["server"]
        return {
            "DMLC_ROLE": role,
            "DMLC_PS_ROOT_URI": place,
            "DMLC_PS_ROOT_PORT": port,
            "DMLC_NUM_WORKER": str(workers),
            "DMLC_NUM_SERVER": str(servers),
        }

"""Equal processes: each meets the others, is told what launchers tell, and runs train()."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import cast

from tfos.compat import horovod
from tfos.errors import LakeError
from tfos.fault.failures import FailureKind
from tfos.runtime.backend import Trained
from tfos.runtime.host import Host
from tfos.strategies.gang.context import GangContext
from tfos.strategies.gang.mpi import joined
from tfos.strategies.gang.topology import Gang as Topology
from tfos.strategies.gang.world import PeerLost, World, join


class Gang:
    def preload(self, role: str) -> None:
        """What is slow to import is the app's: it names that itself."""

    def run(self, host: Host) -> Trained:
        if not host.is_chief:
            host.ask_to_save_at_sigterm()
        with contextlib.ExitStack() as stack:
            world = stack.enter_context(join(host))
            os.environ.update(self.environment(world))
            mpi = None
            if cast(Topology, host.spec.topology).mpi:
                with host.meeting():
                    mpi = stack.enter_context(joined(host, world))
                os.environ.update(mpi.environment)
            with horovod.explained():
                app = host.app()  # whose modules may look at the environment
            with host.reports.quiet():
                context = GangContext(host, world)
                world.agree(context.checkpoint.step)
            if host.is_chief:
                host.save_on_demand(context.checkpoint.hurry)
            host.reports.progress({"phase": "train() begins"})
            try:
                with horovod.explained():
                    returned = app.train(context)
            except BaseException:
                # what train() raised is the root cause
                with contextlib.suppress(LakeError), host.reports.quiet():
                    context.close()
                raise
            trained = Trained.of(returned, context.reported, None)
            trained.plain_metrics()  # raises while the others are here yet
            with host.reports.quiet():
                context.close()
            # not quiet: who hangs in the last steps keeps the others here
            host.reports.progress({"phase": "waiting for the other processes to end"})
            if mpi is not None:
                mpi.finish()
            world.leave()
        return trained

    def environment(self, world: World) -> Mapping[str, str]:
        """Of a process that has met the others."""
        return world.environment

    def failure_kind(self, error: BaseException) -> FailureKind:
        return FailureKind.PEER if isinstance(error, PeerLost) else FailureKind.EXCEPTION

"""One process of a gang, by hand: gang_rank.py START_ORDER prints what train() gave, as JSON.

START_ORDER: the fields of tfos.runtime.protocol.StartOrder, as JSON. It has no supervisor.
"""

from __future__ import annotations

import json
import os
import sys
from types import SimpleNamespace

from tfos.runtime.host import Host
from tfos.runtime.protocol import StartOrder
from tfos.strategies.gang.backend import Gang

if __name__ == "__main__":
    asked = ("send", "on_demand", "on_sigterm", "take_sigterm")
    deaf = SimpleNamespace(**dict.fromkeys(asked, lambda *said: None))
    trained = Gang().run(Host(StartOrder(**json.loads(sys.argv[1])), deaf))
    metrics = {name: getattr(v, "tolist", lambda v=v: v)() for name, v in trained.metrics.items()}
    told = {name: os.environ[name] for name in ("LOCAL_RANK", "GROUP_RANK", "GLOO_SOCKET_IFNAME")}
    print(json.dumps({**metrics, **told}), flush=True)
    os._exit(0)  # threads of frameworks may wait for the others, which have gone

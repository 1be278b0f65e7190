"""The configuration of a small Hadoop: what its daemons and its clients are told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from realm import Realm

YARN = "org.apache.hadoop.yarn.server"
_AT = "127.0.0.1"
_NODE_MB, _NODE_CORES = 10_240, 8
# of the NodeManager that says nothing; its containers go on until then
_EXPIRY_MS = 20_000
# the name service of a pair of NameNodes
SERVICE = "pair"
PAIR = ("a", "b")


@dataclass(frozen=True)
class HadoopConf:
    """port: of a daemon's part, by name. is_paired: two NameNodes, one of which stands by."""

    home: Path
    port: Callable[[str], int]
    realm: Realm | None = None
    is_paired: bool = False

    @property
    def url(self) -> str:
        """Of HDFS."""
        return f"hdfs://{SERVICE}" if self.is_paired else f"hdfs://{_AT}:{self.port('namenode')}"

    def write(self, node: int = 0, namenode: str = "") -> Path:
        """A folder of it: for one NodeManager, for one of two NameNodes, or for all others."""
        conf = self.home / f"conf{f'-{node or namenode}' if node or namenode else ''}"
        # the web pages that the jars of HDFS lack, and its daemons look for
        for page in ("hdfs", "datanode"):
            (conf / "webapps" / page).mkdir(parents=True)
        core, hdfs, yarn = self._core(node), self._hdfs(namenode), self._yarn(node)
        if self.realm is not None:
            core.update(self.realm.core())
            hdfs.update(self.realm.hdfs())
            yarn.update(self.realm.yarn())
        _site(conf / "core-site.xml", core)
        _site(conf / "hdfs-site.xml", hdfs)
        _site(conf / "yarn-site.xml", yarn)
        _site(conf / "capacity-scheduler.xml", _capacity())
        (conf / "log4j.properties").write_text(
            "log4j.rootLogger=INFO,c\n"
            "log4j.appender.c=org.apache.log4j.ConsoleAppender\n"
            "log4j.appender.c.layout=org.apache.log4j.PatternLayout\n"
            "log4j.appender.c.layout.ConversionPattern=%d %p %c{1}: %m%n\n"
        )
        return conf

    def _core(self, node: int) -> dict[str, object]:
        return {
            "fs.defaultFS": self.url,
            "hadoop.tmp.dir": self.home / f"tmp-{node}",
            "hadoop.http.staticuser.user": "root",
        }

    def _hdfs(self, namenode: str) -> dict[str, object]:
        return {
            "dfs.replication": 1,
            "dfs.namenode.name.dir": f"file://{self.home}/namenode{namenode}",
            "dfs.datanode.data.dir": f"file://{self.home}/datanode",
            "dfs.datanode.address": f"{_AT}:{self.port('datanode')}",
            "dfs.datanode.ipc.address": f"{_AT}:{self.port('datanode-ipc')}",
            "dfs.datanode.http.address": f"{_AT}:{self.port('datanode-http')}",
            "dfs.datanode.http.internal-proxy.port": self.port("datanode-proxy"),
            "dfs.datanode.hostname": _AT,
            "dfs.namenode.datanode.registration.ip-hostname-check": "false",
            **(self._pair(namenode) if self.is_paired else self._single()),
        }

    def _single(self) -> dict[str, object]:
        return {"dfs.namenode.http-address": f"{_AT}:{self.port('namenode-http')}"}

    def _pair(self, namenode: str) -> dict[str, object]:
        addresses = {
            f"dfs.namenode.{kind}-address.{SERVICE}.{each}": f"{_AT}:{self.port(f'{kind}-{each}')}"
            for each in PAIR
            for kind in ("rpc", "http")
        }
        return {
            **addresses,
            "dfs.nameservices": SERVICE,
            f"dfs.ha.namenodes.{SERVICE}": ",".join(PAIR),
            f"dfs.client.failover.proxy.provider.{SERVICE}": "org.apache.hadoop.hdfs.server"
            ".namenode.ha.ConfiguredFailoverProxyProvider",
            "dfs.namenode.shared.edits.dir": f"file://{self.home}/edits",
            "dfs.ha.fencing.methods": "shell(/bin/true)",
            "dfs.ha.tail-edits.period": 1,
            **({"dfs.ha.namenode.id": namenode} if namenode else {}),
        }

    def _yarn(self, node: int) -> dict[str, object]:
        manager = {
            f"yarn.resourcemanager.{part}address": f"{_AT}:{self.port('rm-' + part)}"
            for part in ("", "scheduler.", "resource-tracker.", "admin.", "webapp.")
        }
        host = f"127.0.0.{1 + node}"
        nodes = {
            "yarn.nodemanager.hostname": host,
            "yarn.nodemanager.bind-host": host,
            **{
                f"yarn.nodemanager.{part}address": f"{host}:{self.port(f'nm{node}-{part}')}"
                for part in ("", "localizer.", "webapp.", "collector-service.")
            },
            "yarn.nodemanager.local-dirs": self.home / f"node-{node}" / "local",
            "yarn.nodemanager.log-dirs": self.home / f"node-{node}" / "logs",
        }
        return {
            **manager,
            "yarn.resourcemanager.hostname": _AT,
            "yarn.resourcemanager.am.max-attempts": 4,
            "yarn.resourcemanager.scheduler.class": f"{YARN}.resourcemanager.scheduler"
            ".capacity.CapacityScheduler",
            "yarn.scheduler.minimum-allocation-mb": 128,
            "yarn.scheduler.maximum-allocation-mb": _NODE_MB,
            "yarn.nm.liveness-monitor.expiry-interval-ms": _EXPIRY_MS,
            "yarn.resourcemanager.nodemanagers.heartbeat-interval-ms": 500,
            "yarn.application.classpath": "$PWD",
            "yarn.nodemanager.delete.debug-delay-sec": 0,
            # 2.1 times a container's size: a JVM and TensorFlow map far more
            "yarn.nodemanager.vmem-check-enabled": "false",
            "yarn.nodemanager.pmem-check-enabled": "true",
            # that is left to cgroups by default, whether there are any or not
            "yarn.nodemanager.resource.memory.enforced": "false",
            "yarn.nodemanager.resource.memory-mb": _NODE_MB,
            "yarn.nodemanager.resource.cpu-vcores": _NODE_CORES,
            "yarn.nodemanager.disk-health-checker.max-disk-utilization-per-disk-percentage": 99,
            **(nodes if node else {}),
        }


def _capacity() -> dict[str, object]:
    queue = "yarn.scheduler.capacity"
    return {
        f"{queue}.root.queues": "default",
        f"{queue}.root.default.capacity": 100,
        f"{queue}.maximum-am-resource-percent": 0.8,
        f"{queue}.resource-calculator": "org.apache.hadoop.yarn.util.resource"
        ".DominantResourceCalculator",
    }


def _site(path: Path, values: Mapping[str, object]) -> None:
    rows = (
        f"<property><name>{name}</name><value>{escape(str(value))}</value></property>\n"
        for name, value in values.items()
    )
    path.write_text(f"<configuration>\n{''.join(rows)}</configuration>\n")

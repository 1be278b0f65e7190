"""A Kubernetes cluster of one node: etcd, the control plane, a kubelet and containerd.

All of it lives in network, mount and pid namespaces of its own, whose first process is `node`:
when that ends, everything does. It has no way out to the network. Only root can start it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import poll
from images import write_image
from node_files import ADDRESS, PAUSE, SERVICES, write_configurations, write_keys

from tfos.runtime.process import ChildProcess

_HERE = Path(__file__).parent
_USERS_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
_CGROUPS = Path("/sys/fs/cgroup")
_CONTROL = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
_BUILT = ("etcd", *_CONTROL, "kubelet", "kubectl", "pause")
_PACKAGES = {  # of a program that comes with it
    "containerd": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "ip": "iproute2",
    "openssl": "openssl",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
}


def binaries() -> Path:
    """The directory of Kubernetes's programs. Skips the test where the cluster cannot be had."""
    version = (_HERE / "build").read_text().partition("version=")[2].split()[0]
    folder = _USERS_CACHE / "tfos-tests" / "kubernetes" / version
    if os.getuid() != 0:
        pytest.skip("only root can start a Kubernetes cluster")
    missing = [name for name in _BUILT if not (folder / name).exists()]
    if missing:
        pytest.skip(f"no {', '.join(missing)} in {folder}: run tests/kubernetes/build")
    packages = [package for tool, package in _PACKAGES.items() if shutil.which(tool) is None]
    if packages:
        pytest.skip(f"needs packages: apt-get install {' '.join(packages)}")
    if not (_CGROUPS / "memory").is_dir():
        pytest.skip(f"{_CGROUPS} is of version 2; this cluster is written for version 1")
    return folder


def _hierarchies() -> list[Path]:
    return [folder for folder in _CGROUPS.iterdir() if (folder / "cgroup.procs").exists()]


class KubernetesCluster:
    """home: for its files, which does not exist yet. It takes pods when the constructor returns.

    kubeconfig: of an administrator, for commands that run `inside`.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._binaries = binaries()
        self._cgroup = f"tfos-tests-{os.getpid()}"
        self._process: ChildProcess | None = None
        self.kubeconfig = home / "pki" / "admin.kubeconfig"
        for folder in ("log", "pki", "cni", "containerd", "etcd"):
            (home / folder).mkdir(mode=0o700, parents=True)
        try:
            write_keys(home / "pki")
            write_configurations(home, self._cgroup)
            self._make_cgroups()
            with open(home / "log" / "node.log", "wb") as log:
                process = ChildProcess(self._command(), env=os.environ, log=log.fileno())
            self._process = process
            self._first = poll(lambda: _child_of(process.pid), 10, "the cluster's first process")
            self._await_ready()
        except BaseException:
            self.close()
            raise

    def _command(self) -> list[str]:
        unshare = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child"]
        node = [_HERE / "node", self._home, self._binaries, ADDRESS, SERVICES]
        return [*unshare, "--mount-proc", *map(str, node)]

    def _make_cgroups(self) -> None:
        for hierarchy in _hierarchies():
            cgroup = hierarchy / self._cgroup
            cgroup.mkdir()
            if hierarchy.name == "cpuset":  # a new one has no processor and no memory
                for name in ("cpuset.cpus", "cpuset.mems"):
                    (cgroup / name).write_text((hierarchy / name).read_text())
            if hierarchy.name == "cpu":
                # else all pods together get the share of one process outside of any cgroup
                (cgroup / "cpu.shares").write_text("65536")

    def inside(self, *argv: str) -> list[str]:
        """The command that runs `argv` on the node."""
        return ["nsenter", "-t", str(self._first), "-n", "-m", "-p", *argv]

    def _run(self, *argv: str, text: str | None = None) -> str:
        ended = subprocess.run(
            self.inside(*argv), input=text, capture_output=True, text=True, timeout=120
        )
        if ended.returncode != 0:
            raise RuntimeError(f"{argv}: {ended.stderr[-2000:]}")
        return ended.stdout

    def kubectl(self, *argv: str, text: str | None = None) -> str:
        program = str(self._binaries / "kubectl")
        return self._run(program, "--kubeconfig", str(self.kubeconfig), *argv, text=text)

    def apply(self, *objects: dict[str, Any]) -> None:
        listed = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("apply", "-f", "-", text=json.dumps(listed))

    def get(self, *argv: str) -> Any:
        return json.loads(self.kubectl("get", *argv, "-o", "json"))

    def load_image(self, archive: Path) -> None:
        """archive: as `docker save`, or images.py, writes it."""
        self._run("ctr", "-n", "k8s.io", "images", "import", str(archive))

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "its first process has ended"
        try:
            nodes = self.get("nodes")["items"]
        except RuntimeError:  # no server yet
            return False
        conditions = [one for node in nodes for one in node["status"].get("conditions", [])]
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    def _await_ready(self) -> None:
        try:
            poll(self._is_ready, 90, "the node is ready")
            write_image(
                self._home / "pause.tar", PAUSE, {"pause": self._binaries / "pause"}, ["/pause"]
            )
            self.load_image(self._home / "pause.tar")
            poll(lambda: self.get("serviceaccounts")["items"], 30, "there is a service account")
        except AssertionError as error:
            logs = sorted((self._home / "log").glob("*.log"))
            tails = [f"{log.name}: {log.read_text(errors='replace')[-1500:]}" for log in logs]
            raise AssertionError("\n\n".join([str(error), *tails])) from None

    def close(self) -> None:
        """Ends everything in it; nothing is left when it returns."""
        if self._process is not None:
            self._process.end()
        for hierarchy in _hierarchies():
            top = hierarchy / self._cgroup
            poll(lambda top=top: _removed(top), 30, f"{top} has no processes")
        shutil.rmtree(self._home)


def _child_of(pid: int) -> int | None:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else None


def _removed(cgroup: Path) -> bool:
    """Removes a cgroup and those below; False as long as one has processes, which are ending."""
    for folder, _, _ in os.walk(cgroup, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(folder)
    return not cgroup.exists()

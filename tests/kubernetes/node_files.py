"""What the programs of a one-node cluster read: keys, tokens and configurations."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

# addresses inside of the cluster's own network
ADDRESS, PODS, SERVICES = "10.244.0.1", "10.244.0.0/24", "10.96.0"
PAUSE = "localhost/pause:1"
_USERS = {  # name of the kubeconfig -> user, group
    "admin": ("admin", "system:masters"),
    "kubelet": ("system:node:node", "system:nodes"),
    "controllers": ("system:kube-controller-manager", "system:masters"),
    "scheduler": ("system:kube-scheduler", ""),
}
_CONTAINERD = """version = 2
root = "{home}/containerd"
disabled_plugins = [{unused}]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  # what not every root may do, or not every kernel has
  restrict_oom_score_adj = true
  disable_apparmor = true
  disable_hugetlb_controller = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{home}/cni"
"""


def write_keys(pki: Path) -> None:
    """Certificates, a token for each user, and NAME.kubeconfig with it."""

    def openssl(*argv: str) -> None:
        subprocess.run(["openssl", *argv], cwd=pki, check=True, capture_output=True, timeout=60)

    names = f"IP:127.0.0.1,IP:{ADDRESS},IP:{SERVICES}.1,DNS:kubernetes.default.svc"
    (pki / "names").write_text(f"subjectAltName={names}")
    new = ("req", "-newkey", "rsa:2048", "-nodes")
    openssl(*new, "-x509", "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=tests")
    openssl(*new, "-keyout", "api.key", "-out", "api.csr", "-subj", "/CN=kube-apiserver")
    openssl(
        "x509", "-req", "-in", "api.csr", "-CA", "ca.crt", "-CAkey", "ca.key",
        "-CAcreateserial", "-extfile", "names", "-out", "api.crt",
    )  # fmt: skip
    openssl("genrsa", "-out", "accounts.key", "2048")
    openssl("rsa", "-in", "accounts.key", "-pubout", "-out", "accounts.pub")
    server = {"server": "https://127.0.0.1:6443", "certificate-authority": str(pki / "ca.crt")}
    tokens = ""
    for name, (user, group) in _USERS.items():
        token = os.urandom(16).hex()
        tokens += f'{token},{user},{name},"{group}"\n'
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "tests", "cluster": server}],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": name}}],
            "current-context": "tests",
        }
        (pki / f"{name}.kubeconfig").write_text(json.dumps(config))
    (pki / "tokens.csv").write_text(tokens)


def write_configurations(home: Path, cgroup: str) -> None:
    """kubelet.json, containerd.toml and the pods' network.

    cgroup: below which all pods' are, in each hierarchy.
    """
    watched = ("memory.available", "nodefs.available", "nodefs.inodesFree", "imagefs.available")
    kubelet = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cgroup}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        "oomScoreAdj": 0,  # a lower one is not every root's to set
        "address": ADDRESS,
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "localStorageCapacityIsolation": False,
        "resolvConf": "",
        # the machine's memory and disk are not this cluster's to watch
        "evictionHard": dict.fromkeys(watched, "0%"),
        "imageGCHighThresholdPercent": 100,
        "nodeStatusUpdateFrequency": "2s",
    }
    (home / "kubelet.json").write_text(json.dumps(kubelet))
    addresses = {
        "type": "host-local",
        "dataDir": "/run/addresses",
        "ranges": [[{"subnet": PODS}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "hairpinMode": True}
    network = {"cniVersion": "0.4.0", "name": "pods", "plugins": [{**bridge, "ipam": addresses}]}
    (home / "cni" / "10-pods.conflist").write_text(json.dumps(network))
    names = ("aufs", "btrfs", "devmapper", "zfs")
    unused = ", ".join(f'"io.containerd.snapshotter.v1.{name}"' for name in names)
    (home / "containerd.toml").write_text(_CONTAINERD.format(home=home, unused=unused, pause=PAUSE))

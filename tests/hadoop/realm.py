"""A realm of Kerberos for a Hadoop on this machine: a key distribution center, keys, who has them.

The center is Apache Kerby's, of Hadoop's own tests (MiniKdc): nothing has to be installed for it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from conftest import free_port, poll

from tfos.runtime.process import ChildProcess

_NAME = "TFOS.TEST"
_SERVICES = ("hdfs", "yarn", "HTTP")
_PROPERTIES = """\
org.name=TFOS
org.domain=TEST
kdc.bind.address=127.0.0.1
kdc.port={port}
transport=TCP
"""


class Realm:
    """principal, keytab: of the user. environment: what a client has in its environment; it has no
    ticket yet. java_options: of a JVM that belongs to the realm."""

    def __init__(self, home: Path, java: Sequence[str]) -> None:
        """java: a command that takes a class and its arguments."""
        home.mkdir()
        self.principal, self.keytab = f"me@{_NAME}", home / "me.keytab"
        self._all_keys = home / "all.keytab"
        conf, log, settings = home / "krb5.conf", home / "kdc.log", home / "kdc.properties"
        self.environment = {"KRB5_CONFIG": str(conf), "KRB5CCNAME": f"FILE:{home / 'ticket'}"}
        self.java_options = f"-Djava.security.krb5.conf={conf}"
        settings.write_text(_PROPERTIES.format(port=free_port()))
        principals = ["me", *(f"{service}/localhost" for service in _SERVICES)]
        command = [*java, "org.apache.hadoop.minikdc.MiniKdc", str(home), str(settings)]
        with open(log, "ab") as sink:
            command += [str(self._all_keys), *principals]
            self._kdc = ChildProcess(command, env=os.environ, log=sink.fileno())

        def serves() -> bool:
            assert self._kdc.poll() is None, log.read_text()[-3000:]
            return "created keytab" in log.read_text()

        poll(serves, 60, "the key distribution center is up")
        self.keytab.write_bytes(_of_users(self._all_keys.read_bytes()))

    def close(self) -> None:
        self._kdc.end()

    def core(self) -> Mapping[str, object]:
        """What core-site.xml has for it."""
        return {"hadoop.security.authentication": "kerberos"}

    def hdfs(self) -> Mapping[str, object]:
        return {
            **self._keys("hdfs", "dfs.{}.kerberos.principal", "dfs.{}.keytab.file"),
            "dfs.web.authentication.kerberos.principal": self._principal("HTTP"),
            "dfs.web.authentication.kerberos.keytab": self._all_keys,
            "dfs.block.access.token.enable": "true",
            # else an administrator would have to make folders for the user
            "dfs.permissions.enabled": "false",
            "dfs.data.transfer.protection": "authentication,privacy",
            # or the pages of a DataNode would have to be of HTTPS
            "ignore.secure.ports.for.testing": "true",
        }

    def yarn(self) -> Mapping[str, object]:
        return {
            **self._keys("yarn", "yarn.{}.principal", "yarn.{}.keytab"),
            "yarn.resourcemanager.webapp.delegation-token-auth-filter.enabled": "false",
        }

    def _keys(self, service: str, principal: str, keytab: str) -> Mapping[str, object]:
        daemons = {
            "hdfs": ("namenode", "datanode"),
            "yarn": ("resourcemanager", "nodemanager"),
        }[service]
        values = {principal: self._principal(service), keytab: self._all_keys}
        return {key.format(each): value for each in daemons for key, value in values.items()}

    def _principal(self, service: str) -> str:
        return f"{service}/localhost@{_NAME}"


def _of_users(keytab: bytes) -> bytes:
    """The keys of principals with one component, which are no services'.

    The format: MIT Kerberos's documentation, "The Kerberos keytab file format", version 2.
    """
    kept, at = [keytab[:2]], 2
    while at < len(keytab):
        size, components = struct.unpack_from(">iH", keytab, at)
        if components == 1:
            kept.append(keytab[at : at + 4 + size])
        at += 4 + size
    return b"".join(kept)

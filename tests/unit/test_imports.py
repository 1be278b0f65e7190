"""Imports run one way, by layers, and heavy packages are imported only where they are used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tfos

ROOT = Path(tfos.__file__).parent

# Top first. A module imports from lower layers, and from its own package (runtime, training, ...).
LAYERS = [
    {"tfos", "tfos.cli.submit", "tfos.cli.script"},
    {"tfos.cli.commands", "tfos.ml"},
    {"tfos.driver.run", "tfos.client.control"},
    {"tfos.driver.feeds", "tfos.driver.session", "tfos.client.status", "tfos.client.logs", "tfos.spec.result"},
    {"tfos.app", "tfos.driver.shipping"},
    {"tfos.runtime"},
    {"tfos.context", "tfos.driver.display"},
    {"tfos.training", "tfos.inference"},
    {"tfos.inference.signature", "tfos.optimizers", "tfos.layers"},
    {"tfos.tables.sparse_optimizer", "tfos.tables.division"},
    {"tfos.tables.rows"},
    {"tfos.feeding", "tfos.fault"},
    {"tfos.lake.storage"},
    {"tfos.spec.job", "tfos.lake.atomic_file"},
    {"tfos.errors", "tfos.version"},
]
# run() belongs to the app that the user writes, and what it does to the driver
LAZY_EXCEPTIONS = {("tfos.app", "tfos.driver.run")}

PURE = {
    "tfos.runtime.roles",
    "tfos.runtime.lifecycle",
    "tfos.runtime.keys",
    "tfos.feeding.schema",
    "tfos.feeding.layout",
    "tfos.feeding.feed",
    "tfos.feeding.ledger",
    "tfos.feeding.plan",
    "tfos.inference.signature",
    "tfos.fault.failures",
    "tfos.fault.hang",
    "tfos.fault.policy",
    "tfos.spec.job",
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


def unit(name: str) -> str:
    """The layer's entry that a module belongs to: its package, or itself at the top level."""
    return ".".join(name.split(".")[:2])


def layer(name: str) -> int:
    (found,) = [i for i, names in enumerate(LAYERS) if unit(name) in names]
    return found


def test_every_module_has_a_layer():
    listed = [name for names in LAYERS for name in names]
    assert len(set(listed)) == len(listed)
    assert {unit(name) for name in MODULES} == set(listed)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_go_down(name):
    wrong = {
        other
        for other in ours(imported(name, lazy=True))
        if not (layer(name) < layer(other) or ("." in name and unit(name) == unit(other)))
        and (name, other) not in LAZY_EXCEPTIONS
    }
    assert not wrong, f"{name} imports {sorted(wrong)}: see LAYERS"


def test_exceptions_are_lazy():
    for name, other in LAZY_EXCEPTIONS:
        assert other not in imported(name, lazy=False)
        assert other in imported(name, lazy=True)


def test_modules_of_a_package_do_not_import_each_other_in_a_circle():
    graph = {name: ours(imported(name, lazy=False)) - {name} for name in MODULES}
    while leaves := {name for name, others in graph.items() if not others & graph.keys()}:
        graph = {name: others for name, others in graph.items() if name not in leaves}
    assert not graph


@pytest.mark.parametrize(("one", "other"), [("feeding", "fault"), ("fault", "feeding")])
def test_feeding_and_fault_do_not_import_each_other(one, other):
    for name in MODULES:
        if unit(name) == f"tfos.{one}":
            assert f"tfos.{other}" not in {unit(i) for i in imported(name, lazy=True)}


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
        ("kazoo", {"tfos.runtime.registry"}),
        ("rich", {"tfos.driver.display", "tfos.client.status"}),
        ("fsspec", {"tfos.lake.storage"}),
        ("tenacity", {"tfos.lake.storage"}),
        (
            "pyarrow",
            {
                "tfos.feeding.convert",
                "tfos.feeding.reader",
                "tfos.feeding.partition",
                "tfos.inference.worker",
            },
        ),
        (
            "pyspark",
            {
                "tfos.driver.feeds",
                "tfos.driver.session",
                "tfos.driver.shipping",
                "tfos.feeding.partition",
                "tfos.inference.predict",
                "tfos.inference.worker",
                "tfos.ml",
                "tfos.driver.attempt",
                "tfos.runtime.supervisor",
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
        ("import tfos.cli.submit", ["tensorflow", "keras", "pyspark"]),
        ("import tfos.cli.script", ["tensorflow", "keras", "pyspark"]),
        ("import tfos.runtime.supervisor", ["tensorflow", "keras", "pyspark"]),
        ("import tfos.runtime.child", ["tensorflow", "keras", "pyspark", "kazoo"]),
        ("import tfos.runtime.main", ["tensorflow", "keras", "pyspark", "kazoo"]),
    ],
)
def test_import_leaves_out(statement, absent):
    code = f"{statement}; import sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    assert "tfos" in loaded
    assert not set(absent) & set(loaded)

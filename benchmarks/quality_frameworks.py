"""Whether frameworks train as well as each other: python benchmarks/quality_frameworks.py

Trains a logistic regression and a small perceptron on a9a, in ../shared/data, under tfos's own
strategies and in each framework that is installed beside it, by the examples. Writes that section
of docs/QUALITY.md, and fails where one differs from `single` by more than the noise.

--old PYTHON: the interpreter of an environment with tfos[estimator] and Horovod, which need another
TensorFlow; without it they are left out. tests/horovod_environment.py makes one.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quality import DATA, STRATEGIES, Target, shortfalls
from submit import ROOT, submit

A9A = str(DATA / "a9a" / "a9a")
GANG = ["--strategy", "gang", "--num-workers", "2"]
KV = ["--strategy", "kv", "--num-ps", "2", "--num-workers", "2"]
BETWEEN_GRAPH = ["--strategy", "between-graph", "--num-ps", "1", "--num-workers", "2"]
HEADING = "## In every framework"


@dataclass(frozen=True)
class Way:
    """How a model is trained. needs: a package beside tfos. is_old: with the other TensorFlow."""

    name: str
    options: list[str]
    app: str
    args: list[str]
    needs: str = "tfos"
    is_old: bool = False


@dataclass(frozen=True)
class Task:
    name: str
    targets: dict[str, Target]
    ways: list[Way]


def _alike(*args: str) -> list[Way]:
    """The same model in all of the examples that have it."""
    example, given = "examples/a9a_logistic/", ["--data", A9A, *args]
    ours = [Way(name, options, f"{example}app.py", given) for name, options in STRATEGIES.items()]
    return ours + [
        Way(f"gang, {title}", GANG, f"{example}with_{name}.py", given, name, name == "horovod")
        for name, title in {"torch": "PyTorch", "jax": "JAX", "horovod": "Horovod"}.items()
    ]


TASKS = [
    Task(
        "logistic regression",
        {"test_accuracy": Target(0.0015, 0.847), "test_auc": Target(0.001, 0.9)},
        _alike(),
    ),
    Task(
        "perceptron, 32 hidden units",
        {"test_accuracy": Target(0.004, 0.845), "test_auc": Target(0.003, 0.9)},
        _alike("--hidden", "32"),
    ),
    Task(
        "logistic regression, FTRL with L1",
        {"accuracy": Target(0, 0.847), "auc": Target(0, 0.9)},
        [Way("kv", KV, "examples/sparse_lr/app.py", ["--train", A9A, "--test", f"{A9A}.t"])],
    ),
    Task(
        "wide and deep, Estimator",
        {"test_accuracy": Target(0, 0.845), "test_auc": Target(0, 0.898)},
        [
            Way(
                "between-graph", BETWEEN_GRAPH, "examples/wide_deep_estimator/app.py",
                ["--data", A9A], is_old=True,
            )
        ],
    ),
    Task(
        "boosted trees",
        {"test_accuracy": Target(0, 0.847), "test_auc": Target(0, 0.9)},
        [
            Way(
                "gang, XGBoost", GANG, "examples/a9a_logistic/with_xgboost.py", ["--data", A9A],
                "xgboost",
            )
        ],
    ),
]  # fmt: skip

SECTION = """\
{heading}

Written by `python benchmarks/quality_frameworks.py` on {date}. a9a, by the examples; 2 workers
but for `single`. A framework has random numbers of its own for the perceptron's first weights.

{table}

The script fails unless accuracy and AUC are at least {bounds}.
"""


def rows(task: Task, old: Path | None) -> tuple[list[str], list[str]]:
    """Lines of the table, and what is wrong with them."""
    lines, results = [], {}
    for way in task.ways:
        if old is None if way.is_old else importlib.util.find_spec(way.needs) is None:
            print(f"left out, as it is not installed: {way.name}", file=sys.stderr)
            continue
        python = old if way.is_old else None
        results[way.name] = result = submit(way.options, way.app, way.args, python=python)
        quality = " | ".join(f"{result['metrics'][name]:.4f}" for name in task.targets)
        lines.append(f"| {task.name} | {way.name} | {quality} |")
        print(lines[-1], flush=True)
    return lines, shortfalls(task, results)


def replaced(page: str, section: str) -> str:
    """The page with the section in place of the one that it has."""
    return page.partition(HEADING)[0].rstrip() + "\n\n" + section


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--old", type=Path, metavar="PYTHON")
    old = parser.parse_args().old
    if not DATA.is_dir():
        sys.exit(f"the data sets are not at {DATA}")
    table = ["| model | | accuracy | AUC |", "| --- | --- | --- | --- |"]
    wrong: list[str] = []
    for task in TASKS:
        lines, shortfall = rows(task, old)
        table, wrong = table + lines, wrong + shortfall
    values: dict[str, Any] = {"heading": HEADING, "date": datetime.date.today()}
    bounds = (
        f"{' and '.join(f'{each.bound}' for each in task.targets.values())} ({task.name})"
        for task in TASKS
    )
    section = SECTION.format(**values, table="\n".join(table), bounds="; ".join(bounds))
    page = ROOT / "docs" / "QUALITY.md"
    page.write_text(replaced(page.read_text(), section))
    sys.exit("\n".join(wrong) or None)


if __name__ == "__main__":
    main()

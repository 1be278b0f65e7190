"""A run's status as text for a person."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from tfos.client.status import Status, first_line, local_time
from tfos.driver.display import describe_progress

_STYLES = {
    **dict.fromkeys(("up", "training", "running", "succeeded"), "green"),
    **dict.fromkeys(("failed", "gone", "dead"), "red"),
    **dict.fromkeys(("starting", "checking", "unreachable"), "yellow"),
}
# no text is wider, so that nothing is cut or wrapped where no terminal limits it
_PIPE_COLUMNS = 100_000


def _duration(secs: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if secs >= 2 * size:
            return f"{secs / size:.0f} {unit}"
    return f"{max(0.0, secs):.0f} s"


def _checkpoint_text(checkpoint: Mapping[str, Any]) -> str:
    parts = [f"step {checkpoint['step']:,}"]
    if checkpoint.get("age_secs") is not None:
        parts.append(f"{_duration(checkpoint['age_secs'])} ago")
    if checkpoint.get("saved") is not None:
        parts.append(f"{checkpoint['saved']} saved in all")
    return ", ".join(parts)


def _table(*headers: str, right: Iterable[str] = ()) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for header in headers:
        table.add_column(header, justify="right" if header in right else "left")
    return table


def print_status(status: Status) -> None:
    """Prints the status on stdout. Widths follow the content, except on a terminal."""
    width = None if sys.stdout.isatty() else _PIPE_COLUMNS
    console = Console(width=width, markup=False, emoji=False, highlight=False)
    blocks: list[RenderableType] = []
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_row("run", status.run_id)
    attempt = f", attempt {status.attempt}" if status.attempt else ""
    facts.add_row("state", Text.assemble((status.state, _STYLES.get(status.state, "")), attempt))
    if status.message:
        facts.add_row("", status.message)
    facts.add_row("lake", status.lake)
    if status.progress:
        secs = status.progress.get("secs")
        since = "" if secs is None else f", for {_duration(secs)}"
        facts.add_row("progress", describe_progress(status.progress) + since)
    facts.add_row(
        "checkpoint", _checkpoint_text(status.checkpoint) if status.checkpoint else "none"
    )
    if status.evaluation:
        metrics = "  ".join(f"{key} {item}" for key, item in status.evaluation["metrics"].items())
        facts.add_row("evaluation", f"step {status.evaluation['step']:,}  {metrics}")
    for name, value in (("metrics", status.metrics), ("seconds", status.seconds)):
        if value:
            facts.add_row(name, "  ".join(f"{key} {item}" for key, item in value.items()))
    if status.model:
        facts.add_row("model", status.model)
    if status.roles:
        roles = _table("role", "state", "host", "pid", "restarts", right=("pid", "restarts"))
        for role in status.roles:
            roles.add_row(
                role.task,
                Text(role.state, _STYLES.get(role.state, "")),
                role.host or "-",
                "-" if role.pid is None else str(role.pid),
                str(role.restarts),
            )
        blocks += [roles, ""]
    blocks.append(facts)
    if status.failures:
        failures = _table("time", "failed", "host", "kind", "message")
        for failure in status.failures:
            failures.add_row(
                local_time(failure.time) if failure.time else "-",
                failure.task,
                failure.host,
                failure.kind,
                first_line(failure.message),
            )
        blocks += ["", failures]
    with console.capture() as printed:  # what a pipe that breaks should do is not rich's to decide
        console.print(Group(*blocks))
    for line in printed.get().splitlines():
        print(line.rstrip())

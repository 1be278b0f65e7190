"""A notebook that is executed as a user does it: cell by cell, in a real kernel."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient


class Cell:
    """A cell that was executed, as it is saved."""

    def __init__(self, cell: Any) -> None:
        self.all = cell.outputs

    def _of(self, kind: str) -> list[Any]:
        return [output for output in self.all if output.output_type == kind]

    @property
    def stdout(self) -> str:
        return "".join(o.text for o in self._of("stream") if o.name == "stdout")

    @property
    def displays(self) -> list[str]:
        return [output.data["text/plain"] for output in self._of("display_data")]

    @property
    def value(self) -> str:
        """What the cell's last expression gave."""
        (output,) = self._of("execute_result")
        return str(output.data["text/plain"])

    @property
    def error(self) -> tuple[str, str, str] | None:
        """The exception's name and message, and what the cell shows of it."""
        for output in self._of("error"):
            return output.ename, output.evalue, "\n".join(output.traceback)
        return None


class Kernel:
    """A kernel and the notebook that runs in it. Blocking, but for begin()."""

    def __init__(self, folder: Path) -> None:
        # the client belongs to the thread that it was first used in
        self._thread = ThreadPoolExecutor(1, "notebook")
        self._client = NotebookClient(
            nbformat.v4.new_notebook(),
            timeout=240,
            allow_errors=True,
            kernel_name="python3",
            resources={"metadata": {"path": str(folder)}},
        )
        self._block = self._client.setup_kernel()
        self._thread.submit(self._block.__enter__).result()

    def begin(self, code: str) -> Future[Cell]:
        """Executes a cell; the future raises DeadKernelError when the kernel dies."""
        return self._thread.submit(self._execute, code)

    def run(self, code: str) -> Cell:
        return self.begin(code).result()

    def _execute(self, code: str) -> Cell:
        cells = self._client.nb.cells
        cells.append(nbformat.v4.new_code_cell(code))
        return Cell(self._client.execute_cell(cells[-1], len(cells) - 1))

    @property
    def outputs(self) -> list[Any]:
        """Of the newest cell, so far."""
        return list(self._client.nb.cells[-1].outputs)

    @property
    def pid(self) -> int:
        return int(self._client.km.provisioner.pid)

    def interrupt(self) -> None:
        """What the frontend's button does."""
        asyncio.run(self._client.km.interrupt_kernel())

    def close(self) -> None:
        self._thread.submit(self._block.__exit__, None, None, None).result()
        self._thread.shutdown()

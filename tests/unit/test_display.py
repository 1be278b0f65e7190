"""What a person sees while a run goes on."""

from __future__ import annotations

import pytest
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell

from tfos.driver import notebook
from tfos.driver.display import TERMINAL_ENV, Display, describe_progress
from tfos.driver.notebook import CellLine, in_notebook

PROGRESS = {
    "phase": "train",
    "epoch": 2,
    "epochs": 5,
    "rows_done": 12_000,
    "rows": 1_000_000,
    "rows_per_sec": 34_567,
    "metrics": {"loss": 0.123456, "auc": 0.9},
}


class TestDescribeProgress:
    def test_epoch_rows_speed_and_metrics_on_one_line(self):
        assert describe_progress(PROGRESS) == (
            "train epoch 2/5  12,000/1,000,000 rows  34,567 rows/s  loss 0.1235  auc 0.9000"
        )

    def test_unknown_number_of_epochs(self):
        assert describe_progress({**PROGRESS, "epochs": 0}).startswith("train epoch 2  12,000/")

    def test_evaluation_has_no_epoch(self):
        text = describe_progress({**PROGRESS, "phase": "evaluate", "epoch": 0, "epochs": 0})
        assert text.startswith("evaluate  12,000/")

    def test_without_metrics_nothing_trails(self):
        assert describe_progress({**PROGRESS, "metrics": {}}).endswith("34,567 rows/s")

    def test_phase_alone(self):
        assert describe_progress({"phase": "train() begins"}) == "train() begins"

    def test_metric_that_is_not_a_number(self):
        assert "loss nan" in describe_progress({**PROGRESS, "metrics": {"loss": float("nan")}})


class TestPlainDisplay:
    @pytest.fixture
    def display(self, monkeypatch):
        monkeypatch.delenv(TERMINAL_ENV, raising=False)
        return Display()

    def lines(self, capsys):
        return capsys.readouterr().err.splitlines()

    def test_a_line_keeps_its_brackets(self, display, capsys):
        display.line("array[0] in [bold]x[/bold]")
        (line,) = self.lines(capsys)
        assert line.startswith("tfos ")
        assert line.endswith("array[0] in [bold]x[/bold]")

    def test_a_phase_is_a_line_and_is_told(self, display, capsys):
        told = []
        display.phase("pre_train()")
        display.tell = told.append
        display.phase("feeding train")
        assert told == ["feeding train"]
        assert [line.split("  ")[-1] for line in self.lines(capsys)] == [
            "pre_train()", "feeding train",
        ]  # fmt: skip

    def test_a_long_line_is_not_wrapped(self, display, capsys):
        display.line("x" * 500)
        assert len(self.lines(capsys)) == 1

    def test_progress_is_a_line_now_and_then(self, display, capsys):
        for done in range(50):
            display.progress({**PROGRESS, "rows_done": done})
        assert len(self.lines(capsys)) == 1

    def test_a_new_phase_is_a_line_at_once(self, display, capsys):
        display.progress({"phase": "begins"})
        display.progress(PROGRESS)
        display.progress({**PROGRESS, "phase": "evaluate"})
        display.close()
        assert len(self.lines(capsys)) == 3


class TestCellLine:
    @pytest.fixture
    def cell(self, monkeypatch, tmp_path):
        """What IPython was told to show: (text, whether in place of the one before)."""
        monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
        monkeypatch.setattr(notebook, "_EVERY_SECS", 0.0)
        shell = InteractiveShell.instance()
        shell.display_pub = CapturingDisplayPublisher()
        yield lambda: [
            (each["data"]["text/plain"], bool(each["update"])) for each in shell.display_pub.outputs
        ]
        InteractiveShell.clear_instance()

    def test_changes_in_place_until_it_is_closed(self, cell):
        line = CellLine()
        for text in ("begins", "1 of 9", "1 of 9", "9 of 9"):
            line.show(text)
        line.close()
        line.close()
        line.show("again")
        assert cell() == [("begins", False), ("1 of 9", True), ("9 of 9", True), ("again", False)]

    def test_is_seldom_told_and_in_the_end_all_the_same(self, cell, monkeypatch):
        monkeypatch.setattr(notebook, "_EVERY_SECS", 1000.0)
        line = CellLine()
        for done in range(100):
            line.show(f"{done} of 99")
        line.close()
        assert cell() == [("0 of 99", False), ("99 of 99", True)]

    def test_without_a_kernel_there_is_no_cell(self, cell):
        assert not in_notebook()

"""Applications of YARN and Kubernetes, by what spark-submit says of them."""

from __future__ import annotations

import pytest

from tfos.cli.application import Application, address_in, diagnostics_in, name_in, phase_in

WATCHER = (
    "INFO LoggingPodStatusWatcherImpl: Waiting for application app with application ID spark-1f"
    " and submission ID team:app-1-driver to finish..."
)
DEPLOYED = (
    "INFO LoggingPodStatusWatcherImpl: Deployed Spark application app with application ID spark-1f"
    " and submission ID default:app-driver into Kubernetes"
)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("INFO Client: Submitted application application_17_0007", "application_17_0007"),
        (WATCHER, "team:app-1-driver"),
        (DEPLOYED, "default:app-driver"),
        ("INFO Client: Application report for application_17_0007 (state: ACCEPTED)", None),
    ],
)
def test_its_name(line, name):
    assert name_in(line.encode()) == name


def test_the_phase_of_its_pod():
    line = b"INFO LoggingPodStatusWatcherImpl: Application status for spark-1f (phase: Pending)"
    assert phase_in(line) == "Pending"
    assert phase_in(WATCHER.encode()) is None


def test_its_address():
    assert address_in(b"\t tracking URL: http://rm:8088/proxy/a/") == "http://rm:8088/proxy/a/"
    assert address_in(b"\t tracking URL: N/A") is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "\t diagnostics: Application a was killed by me at h",
            "Application a was killed by me at h",
        ),
        ("\t diagnostics: N/A", None),
        ("\t diagnostics: [Sun Nov 29] Scheduler has assigned a container for AM", None),
    ],
)
def test_how_it_ended(line, said):
    assert diagnostics_in(line.encode()) == said


@pytest.mark.parametrize(
    ("name", "master", "command"),
    [
        ("application_1_2", "yarn", "yarn application -kill application_1_2"),
        ("team:app-driver", "k8s://https://api:6443", "kubectl delete pod app-driver -n team"),
    ],
)
def test_what_ends_it_without_tfos(name, master, command):
    assert Application(name, master).kill_command == command

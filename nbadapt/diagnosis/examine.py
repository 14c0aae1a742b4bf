"""All looks in their order. One that fails is a finding itself, and hides no other."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

from nbadapt import origins
from nbadapt.diagnosis.report import Diagnosis, Finding


def examine(*, full: bool = False) -> Diagnosis:
    """Look at everything, in about a second.

    Args:
        full: import torch, where it is not imported yet, for the GPU and the fastest type: some seconds more.
    """
    from nbadapt.diagnosis import front_end, machine, software

    started = time.monotonic()
    hub = machine.Hub(os.environ)
    looks: dict[str, Callable[[], Iterator[Finding]]] = {
        "Front end": front_end.front_end,
        "Machine": lambda: machine.hardware(full),
        "Plugins": software.plugins,
        "Disk": machine.disk,
        "Network": lambda: iter([hub.finding()]),
        "Settings": lambda: machine.settings(os.environ),
        "Extras": software.extras,
        "Versions": software.versions,
    }
    findings: list[Finding] = []
    for topic, look in looks.items():
        try:
            findings.extend(look())
        except origins.PASSING:
            raise
        except BaseException as error:  # noqa: BLE001 - the doctor is asked where things are broken
            value = f"could not be looked at: {origins.told(error)}"
            findings.append(Finding(topic, topic.lower(), value, "problem", "please report this with the text below"))
    return Diagnosis(findings, time.monotonic() - started)

"""A run without a worker thread, and a comm that keeps what is sent: for the tests of what a person sees."""

from __future__ import annotations

import base64
import json
import math
import random
import time
from dataclasses import dataclass, field

import comm
import pytest
from comm.base_comm import BaseComm

from nbadapt.control import Control
from nbadapt.errors import NbadaptError
from nbadapt.events import (
    Event,
    Memory,
    Metric,
    Notice,
    Parameters,
    Progress,
    Sample,
    Stage,
    StateChange,
)
from nbadapt.history import History
from nbadapt.method import Outcome

HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script> &lt; {} \ud800 ünï 漢字'


@dataclass
class QuietRun:
    """Events in a list, the real switches, and nothing that works."""

    title: str = "finetune lora · minilm"
    verb: str = "finetune"
    id: str = "20261121-041500-lora-minilm"
    control: Control = field(default_factory=Control)
    events: list[tuple[float, Event]] = field(default_factory=list)
    outcome: Outcome | None = None
    error: NbadaptError | None = None

    @property
    def log(self) -> History:
        return History(self.events)

    @property
    def state(self) -> str:
        return self.log.state

    def tell(self, *events: Event, gap: float = 0.25) -> None:
        """Append events, `gap` seconds after one another."""
        for event in events:
            last = self.events[-1][0] if self.events else time.time() - 120
            self.events.append((last + gap, event))


def train(run: QuietRun, first: int, last: int, total: int, *, evaluate_every: int = 25) -> None:
    """The events of training steps `first` to `last`: a falling, noisy loss with evaluations and samples."""
    noise = random.Random(first)
    for step in range(first, last + 1):
        loss = 0.2 + 0.5 * math.exp(-3 * step / total) + noise.gauss(0, 0.06)
        run.tell(
            Metric(step, "train", {"loss": loss, "learning_rate": 2e-4 * (1 - step / total), "grad_norm": 1.3}),
            Progress(step, total, epoch=3 * step / total, examples=16 * step, tokens=1800 * step),
            gap=0.1,
        )
        if step % evaluate_every == 0:
            held = {
                "loss": 0.25 + 0.45 * math.exp(-3 * step / total),
                "accuracy": 0.8 - 0.3 * math.exp(-4 * step / total),
            }
            run.tell(Metric(step, "evaluation", held))
            run.tell(
                Sample(step, "A slow film, but the last ten minutes are worth it.", "positive", "positive"),
                Sample(step, "I have seen better acting in a school play.", "positive", "negative"),
            )


def started(**changes: object) -> QuietRun:
    """A run that has begun to train."""
    run = QuietRun(**changes)  # type: ignore[arg-type]  # tests name real fields
    run.tell(
        StateChange("starting"),
        Stage("loading the model"),
        StateChange("running"),
        Notice("No evaluation data given: 10 % of the rows are held out (seed 0)."),
        Parameters(147_456, 22_860_674),
        Memory(1_234_000_000, 1_500_000_000),
        Stage("training"),
    )
    return run


class Wire:
    """Every comm of a test: what the kernel sent, and a way to speak as the front end."""

    def __init__(self) -> None:
        self.sent: list[tuple[dict, list[bytes]]] = []
        self.broken = False
        self.comms: list[BaseComm] = []

    def take(self) -> list[tuple[dict, list[bytes]]]:
        """The custom messages since the last call, as (content, buffers)."""
        taken, self.sent = self.sent, []
        return taken

    def say(self, content: dict) -> None:
        """A custom message of the front end."""
        data = {"method": "custom", "content": content}
        self.comms[-1].handle_msg({"content": {"data": data}, "buffers": []})


def make_wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    """For a fixture: every comm that is made in the test is on this wire."""
    wire = Wire()

    class KeptComm(BaseComm):
        def publish_msg(self, msg_type, data=None, metadata=None, buffers=None, **keys):
            if wire.broken:
                raise OSError("the socket is closed")
            if data and data.get("method") == "custom":
                text = json.dumps(data["content"], ensure_ascii=False, allow_nan=False)
                text.encode("utf-8")  # as the kernel's session does
                wire.sent.append((json.loads(text), [bytes(b) for b in buffers or []]))

    def create(*args, **kwargs):
        wire.comms.append(KeptComm(*args, **kwargs))
        return wire.comms[-1]

    monkeypatch.setattr(comm, "create_comm", create)
    return wire


def weight(message: tuple[dict, list[bytes]]) -> int:
    """Bytes of a message on the wire, without its envelope."""
    content, buffers = message
    return len(json.dumps(content, ensure_ascii=False).encode()) + sum(map(len, buffers))


def portable(message: tuple[dict, list[bytes]]) -> list:
    """A message as JSON, for a page."""
    content, buffers = message
    return [content, [base64.b64encode(b).decode() for b in buffers]]

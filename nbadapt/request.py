"""A line and a body -> Request. Knows nothing of IPython."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nbadapt.method import Verb


@dataclass(frozen=True)
class Request:
    """What a cell or a Python call asks for, before anything was looked up or loaded.

    Attributes:
        verb: "finetune" or "prompt".
        method: the word after the magic.
        model: a name, a folder, a hub id, or a Run whose adapted model is prompted.
        data: a table or the name of a file or hub data set; None where there is none.
        evaluation: held-out rows, in the same forms as `data`; None: split off from the data.
        examples: demonstrations for in-context methods, in the same forms as `data`.
        sources: "data", "evaluation", "examples" -> what the user calls it (for messages and the run's record).
        task: None to infer it from the columns.
        columns: the task's column name -> the user's column name, from --text, --label, --prompt, ...
        labels: the classes to choose from, for prompts; empty: those of the data.
        prompt: the template, for prompt methods.
        variables: values for the template's placeholders that are no data columns.
        settings: the method's own settings, not yet validated.
        split: share of the data held out where no evaluation data is given.
        name: the notebook variable that the run is bound to.
        device: None for the best one there is.
        dtype: None to probe.
    """

    verb: Verb
    method: str
    model: Any = None
    data: Any = None
    evaluation: Any = None
    examples: Any = None
    sources: Mapping[str, str] = field(default_factory=dict)
    task: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    prompt: str | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    split: float = 0.1
    name: str | None = None
    dry_run: bool = False
    background: bool = False
    device: str | None = None
    dtype: str | None = None
    trust_remote_code: bool = False

"""What was done while a run went on, in its exported script: every event of it, in order, whatever a prompt holds."""

from __future__ import annotations

import types

from nbadapt import store
from nbadapt.events import Change, Checkpoint, Event, Progress, Reply, StateChange
from nbadapt_plugins._course import course


def told(folder, *events: tuple[float, Event]) -> str:
    log = store.EventLog(folder)
    for stamp, event in events:
        log.write(stamp, event)
    log.close()
    return course(types.SimpleNamespace(directory=folder))


BEGIN = [(0.0, StateChange("starting")), (1.0, StateChange("running"))]


def test_samples_pauses_and_changes_are_told_in_their_order(tmp_path):
    text = told(
        tmp_path,
        *BEGIN,
        (2.0, Progress(3, 9)),
        (3.0, StateChange("paused")),
        (15.0, StateChange("running")),
        (16.0, Reply(3, "Is it\nsunny?", "yes")),
        (17.0, Progress(4, 9)),
        (18.0, Change(4, "learning_rate", factor=0.5, rate=0.1)),
        (19.0, Progress(5, 9)),
        (20.0, StateChange("paused")),
        (21.0, StateChange("stopped", "stopped by the user")),
    )
    comments = [line for line in text.splitlines() if line.startswith("# after")]
    assert comments == [
        '# after step 3: asked "Is it\\nsunny?"',
        "# after step 3: paused for 12 s",
        "# after step 4: learning rate ×0.5, 0.1000 at the next step",  # noqa: RUF001 - the sign of a factor
        "# after step 5: paused for 1 s",
        "# after step 5: stopped by the user",
    ]
    assert "RATES = {4: [0.5]}" in text
    assert "END = 5" in text
    compile(text, "train.py", "exec")


def test_a_prompt_cannot_leave_its_comment(tmp_path):
    prompts = ["a\nimport os", "a\rimport os", "a\u2028b\x85c\x0cd\x00e", "{braces} '''\"\"\"", "\\\n", "x" * 5_000]
    replies = [(2.0 + i, Reply(0, prompt, "")) for i, prompt in enumerate(prompts)]
    text = told(tmp_path, *BEGIN, *replies, (90.0, StateChange("done")))
    assert all(line.startswith("# after step 0: asked ") for line in text.splitlines() if line)
    assert len(text.splitlines()) == len(prompts) + 1
    assert len(text) < 2_000
    compile(text, "train.py", "exec")
    assert "TrainerCallback" not in text, "nothing is to be repeated"


def test_what_a_resumed_run_took_back_is_not_told(tmp_path):
    text = told(
        tmp_path,
        *BEGIN,
        (2.0, Progress(2, 9)),
        (2.5, StateChange("paused")),
        (3.0, StateChange("running")),
        (3.5, Checkpoint(2, "checkpoints/2")),
        (4.0, Progress(3, 9)),
        (5.0, StateChange("paused")),
        (50.0, StateChange("starting")),
        (51.0, StateChange("running")),
        (52.0, Progress(9, 9)),
        (53.0, StateChange("done")),
    )
    assert text == "\n# after step 2: paused for 0.5 s\n"


def test_a_run_that_went_as_it_was_set_up_adds_nothing(tmp_path):
    assert told(tmp_path, *BEGIN, (2.0, Progress(9, 9)), (3.0, StateChange("done"))) == ""

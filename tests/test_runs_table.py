"""The table of runs: order, filter, differences, notes, deletion, and runs that other kernels work on."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
import steps_method
from kernels import VERSIONS, WIDGET, running
from nbclient import NotebookClient
from shells import Shell
from stored_runs import keep
from watching import HOSTILE, Wire, make_wire, weight

import nbadapt
from nbadapt import notes, store
from nbadapt.comparing import deletion
from nbadapt.comparing.columns import chosen
from nbadapt.comparing.curve import MOST, Curve
from nbadapt.comparing.differences import differences
from nbadapt.comparing.digest import FILE, Digest
from nbadapt.comparing.facts import Facts, Overview, main_metric, measures, smaller_is_better
from nbadapt.errors import NbadaptError, RequestError, StoreError
from nbadapt.events import Checkpoint, Memory, Metric, Progress, StateChange
from nbadapt.history import History
from nbadapt.widgets import runs_feed
from nbadapt.widgets.runs import RunsWidget
from nbadapt.widgets.runs_feed import RunsFeed
from nbadapt.widgets.thin import Bucket

wire = pytest.fixture(make_wire)

LIMIT = 19_000  # bytes of a message; 20 KB with the envelope that Jupyter puts around it
SHOWN = HOSTILE.encode("utf-8", "replace").decode()


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return steps_method.install(tmp_path_factory.mktemp("plugins"))


@contextlib.contextmanager
def elsewhere(code: str, plugins: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that does something with the same runs; it is killed where it has not ended."""
    path = os.pathsep.join([str(plugins), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, text=True, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


# ------------------------------------------------------------------------------------------------ curves and digests


@pytest.mark.parametrize("n", [1, 5, 2 * MOST, 2 * MOST + 1, 20_011])
def test_a_curve_keeps_extremes_and_means_of_all_points(n: int):
    noise = random.Random(n)
    values = [noise.gauss(0, 1) if i % 7 else math.nan for i in range(n)]
    curve = Curve()
    for i, value in enumerate(values):
        curve.add(i + 1, value)
    assert len(curve) == n
    for most in (1, 50, 10_000):
        buckets = curve.buckets(most)
        assert len(buckets) == min(most, math.ceil(n / curve.width))
        start = 0
        for bucket in buckets:
            finite = [v for v in values[start : bucket.step] if math.isfinite(v)]
            start = bucket.step
            if finite:
                assert (bucket.low, bucket.high) == (min(finite), max(finite))
                assert bucket.mean == pytest.approx(math.fsum(finite) / len(finite))
            else:
                assert math.isnan(bucket.mean)
        assert start == n
    kept = Curve.of(json.loads(json.dumps(curve.record())))
    assert [b for b in kept.buckets(50) if b == b] == [b for b in curve.buckets(50) if b == b]
    assert len(kept) == n


def test_a_resumed_run_takes_its_later_points_back():
    curve = Curve()
    for step in range(1, 101):
        curve.add(step, step)
    curve.forget_after(40)
    curve.add(41, -1.0)
    assert curve.buckets(1) == [Bucket(41, -1.0, pytest.approx((sum(range(41)) - 1) / 41), 40.0)]


def log_of(directory: Path, steps: int) -> list[tuple[float, object]]:
    """A log with a stop, a resume from an earlier checkpoint and an end."""
    noise, now = random.Random(1), 1e9
    told: list[tuple[float, object]] = [(now, StateChange("starting")), (now, StateChange("running"))]

    def train(first: int, last: int) -> None:
        for step in range(first, last + 1):
            at = told[-1][0] + 0.25
            told.append((at, Metric(step, "train", {"loss": noise.random(), "learning_rate": 1e-4})))
            told.append((at, Progress(step, steps, examples=step)))
            if step % 50 == 0:
                told.append((at, Memory(5, step)))
                told.append((at, Metric(step, "evaluation", {"loss": noise.random(), "accuracy": noise.random()})))

    train(1, steps // 2)
    last = told[-1][0]
    told.append((last, Checkpoint(steps // 4, "checkpoints/checkpoint-1")))
    told.append((last, StateChange("stopped")))
    told.append((last + 1000, StateChange("starting")))
    train(steps // 4 + 1, steps)
    told.append((told[-1][0], StateChange("done")))
    log = store.EventLog(directory)
    for at, event in told:
        log.write(at, event)  # type: ignore[arg-type]
    log.close()
    return told


@pytest.mark.parametrize("most", [None, 1])
def test_a_digest_tells_what_the_whole_history_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int | None):
    monkeypatch.setattr("nbadapt.comparing.digest.PIECE", 5_000)
    monkeypatch.setattr("nbadapt.comparing.digest.WORTH_KEEPING", 20_000)
    told = log_of(tmp_path, 400)
    history = History(told)  # type: ignore[arg-type]
    digest = Digest(tmp_path)
    looks = 0
    while not digest.complete:
        digest.update(most)
        looks += 1
    assert looks == 1 or most
    kept = Digest(tmp_path)  # from its file, and the rest of the log
    assert kept.offset > 0
    kept.update()
    for one in (digest, kept):
        for attribute in ("state", "elapsed", "progress", "memory", "checkpoint"):
            assert getattr(one.history, attribute) == getattr(history, attribute), attribute
        for key in (("train", "loss"), ("evaluation", "loss"), ("evaluation", "accuracy")):
            points = history.series[key]
            assert [(b.step, b.mean) for b in one.curves[key].buckets(10_000)] == points
            assert one.latest[key] == points[-1][1]


def test_a_log_that_is_torn_damaged_or_replaced_is_read_all_the_same(tmp_path: Path):
    log_of(tmp_path, 20)
    digest = Digest(tmp_path)
    digest.update()
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(b'{"event": "metric", "time": 1e9, "step": "x"}\nnonsense\n\xff\n{"event": "metric", "ti')
    assert digest.update()
    assert len(digest.curves["train", "loss"]) == 20
    log = store.EventLog(tmp_path)
    log.write(2e9, Metric(21, "train", {"loss": 7.0}))  # it begins a line of its own
    log.close()
    digest.update()
    assert digest.latest["train", "loss"] == 7.0
    (tmp_path / "events.jsonl").write_text("")
    digest.update()
    assert not digest.curves
    (tmp_path / FILE).write_text("{")
    assert not Digest(tmp_path).curves


# ------------------------------------------------------------------------------------------------ order and filter


def test_runs_are_sorted_and_those_without_a_figure_come_last():
    for number, accuracy in enumerate((0.7, None, 0.9, 0.8)):
        metrics = {} if accuracy is None else {"accuracy": accuracy, "loss": 1 - accuracy}
        keep(number, accuracy=accuracy, metrics=metrics, seconds=100 - number, name="abcd"[number])

    def names(sort: str) -> str:
        return "".join(run.name for run in nbadapt.runs(sort=sort))

    assert names("") == "dcba"
    assert names("accuracy") == names("result") == names("loss") == "cdab"
    assert names("-accuracy") == "adcb"
    assert names("time") == "dcba"
    assert names("-time") == "abcd"
    assert names("name") == "abcd"
    assert names("-when") == "abcd"
    with pytest.raises(RequestError, match="cannot be sorted by 'acuracy': did you mean accuracy"):
        nbadapt.runs(sort="acuracy")


def test_runs_are_filtered_by_words():
    first, second = keep(1, method="lora", name="tuned"), keep(2, method="full", state="stopped")
    second.tags = ["paper", "v2"]
    second.note = "The one with $x^2$"

    def found(search: str) -> list[str]:
        return [run.id for run in nbadapt.runs(search)]

    assert found("LORA tuned") == [first.id]
    assert found("paper stopped") == found("the ONE") == found("-lora") == [second.id]
    assert found("lora -tuned") == found("lora full") == []
    assert "1 more runs do not fit 'paper'" in repr(nbadapt.runs("paper"))
    assert "None of the 2 runs" in repr(nbadapt.runs("nothing"))


def test_the_table_has_the_name_of_as_and_the_notes():
    keep(1)
    assert "name" not in str(nbadapt.runs()).splitlines()[0]
    run = keep(2, name="tuned")
    run.note, run.tags = "good\nand long " + "x" * 100, ["a", "b"]
    head, _, newest, *_ = str(nbadapt.runs()).splitlines()
    assert {"name", "tags", "note"} <= set(head.split())
    for part in ("tuned", "a b", "good and long"):
        assert part in str(nbadapt.runs())
    assert newest.startswith(run.id)
    assert nbadapt.show("tuned") is run  # also after a restart, when no variable has the name
    keep(3, name="tuned")
    assert nbadapt.show("tuned").id.endswith("0003")


def test_a_run_keeps_the_name_that_as_gave_it(monkeypatch: pytest.MonkeyPatch):
    """Through the magics' own way: plan, start, store."""
    from nbadapt import runner
    from nbadapt.method import Job, ModelRef
    from nbadapt.plan import Plan

    monkeypatch.setattr("nbadapt.registry.load", lambda *_: steps_method.Steps)
    job = Job("steps", steps_method.StepsSettings(steps=2), ModelRef("m", "folder", "m"), "text", Path())
    run = runner.start(Plan(job, steps_method.Steps(), steps_method.Steps().estimate(job), name="counted"))
    run.join(20)
    assert (run.name, nbadapt.runs()[0].name) == ("counted", "counted")


def test_a_notebook_that_runs_for_nobody_ends_with_text_and_html(tmp_path: Path, runs: Path):
    keep(1, name="tuned")
    keep(2, name="other", accuracy=0.9)
    cells = ["%load_ext nbadapt", "%nbadapt runs", "%nbadapt compare tuned other"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources=where).execute()
    (table,), (compared,) = (cell.outputs for cell in notebook.cells[1:])
    for output in (table, compared):
        assert set(output.data) == {"text/html", "text/plain"}
        assert "tuned" in output.data["text/plain"]
    assert "data:image/png;base64," in compared.data["text/html"]
    assert len(json.dumps(notebook)) < 60_000


# ------------------------------------------------------------------------------------------------ comparison


def test_differences_name_what_differs_and_nothing_else():
    one = keep(1, settings={"r": 8, "epochs": 3}, accuracy=0.75, seconds=30, name="small")
    two = keep(2, settings={"r": 16, "epochs": 3, "alpha": 2.5}, accuracy=0.8, seconds=90, trainable=300_000)
    two.tags = ["big"]
    compared = nbadapt.compare_runs([one, two.id])
    frame = compared.frame()
    told = {(group, what): list(cells) for (group, what), cells in zip(frame.index, frame.values, strict=True)}
    assert told == {
        ("run", "Tags"): ["-", "big"],
        ("settings", "r"): ["8", "16"],
        ("settings", "alpha"): ["-", "2.5"],
        ("quality", "Accuracy"): ["0.7500", "0.8000"],
        ("parameters", "Trained parameters"): ["147,456", "300,000"],
        ("time", "Time"): ["30 s", "1 min 30 s"],
    }
    best = {d.label: d.best for d in compared.differences}
    assert best["Accuracy"] == (1,)
    assert best["Time"] == ()
    text = repr(compared)
    assert "1 small" in text
    assert "0.8000 *" in text
    everything = nbadapt.compare_runs([one, two], everything=True)
    assert ("settings", "epochs") in everything.frame().index


def test_tables_of_the_same_name_with_other_rows_differ():
    frame = nbadapt.compare_runs([keep(1, fingerprint="a" * 64), keep(2, fingerprint="b" * 64)]).frame()
    assert list(frame.loc[("data", "Data")]) == ["train_df, 900 rows (aaaaaaaa)", "train_df, 900 rows (bbbbbbbb)"]


def test_a_smaller_loss_is_the_better_one():
    runs = [keep(i, metrics={"loss": loss}) for i, loss in enumerate((0.5, 0.25, math.nan))]
    (line,) = [d for d in nbadapt.compare_runs(runs).differences if d.group == "quality"]
    assert line.best == (1,)


def test_what_cannot_be_compared_is_told():
    run = keep(1)
    for few in ([], [run], [run, run.id]):
        with pytest.raises(RequestError, match="name 2 to 12 different ones"):
            nbadapt.compare_runs(few)
    with pytest.raises(StoreError, match="no run 'nothing'"):
        nbadapt.compare_runs([run, "nothing"])
    with pytest.raises(RequestError, match="did you mean memory"):
        nbadapt.compare_runs([run, keep(2)]).figure(cost="memry")


def test_the_figure_has_the_curves_and_the_scatter():
    runs = [keep(1, accuracy=0.7, seconds=10), keep(2, accuracy=0.8, seconds=20)]
    curves, scatter = nbadapt.compare_runs(runs).figure().axes
    lines = [line for line in curves.get_lines() if len(line.get_xdata()) > 1]
    assert len(lines) == 4  # of each run: training and evaluation
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in scatter.get_lines()]
    assert points == [(10.0, 0.7), (20.0, 0.8)]
    assert scatter.get_xlabel() == "time (s)"
    (alone,) = nbadapt.compare_runs([keep(3, metrics={}), keep(4, metrics={})]).figure(curve="accuracy").axes
    assert alone.get_ylabel() == "accuracy"


def test_hostile_names_notes_and_metrics_are_text_everywhere():
    one = keep(1, method="lora", name=SHOWN, source=SHOWN, settings={"x": SHOWN}, metrics={SHOWN: 1.0, "$a_": 2.0})
    two = keep(2, method="full", metrics={SHOWN: 2.0, "$a_": 3.0}, model=SHOWN)
    one.note, two.tags = HOSTILE, ["<script>window.hacked=1</script>"]
    compared = nbadapt.compare_runs([one, two])
    table = nbadapt.runs()
    for html in (compared._repr_mimebundle_()["text/html"], table._repr_html_()):
        assert "<script" not in html
        assert "<img src=x" not in html
    for quality in (SHOWN, "$a_"):
        compared.figure(curve=quality, quality=quality).canvas.draw()


# ------------------------------------------------------------------------------------------------ notes and tags


def test_notes_and_tags_last_and_change():
    run = keep(1)
    assert (run.note, run.tags) == ("", ())
    run.note = 'two\nlines, "quotes" and 漢字'
    run.tags = ["paper", "v2", "paper"]
    notes.change_tags(run.directory, add=["v3"], remove=["v2", "never"])
    assert run.note == 'two\nlines, "quotes" and 漢字'
    assert run.tags == ("paper", "v3")
    run.note = ""
    assert run.note == ""


def test_a_kill_in_the_midst_of_a_note_costs_that_one_alone():
    run = keep(1)
    run.note, run.tags = "kept", ["a"]
    path = run.directory / notes.FILE
    whole = path.read_bytes()
    path.write_bytes(whole + b'\n{"note": "half')
    assert run.note == "kept"
    run.tags = ["b"]
    assert (run.note, run.tags) == ("kept", ("b",))
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        assert notes.read(run.directory).note in {"", "kept"}


def test_kernels_do_not_undo_each_others_tags(plugins: Path):
    run = keep(1)
    code = (
        "import sys, nbadapt; from nbadapt import notes\nrun = nbadapt.show({!r})\n"
        "for i in range(20): notes.change_tags(run.directory, add=[f'{}{{i}}'], remove=[f'{}{{i-1}}'])\n"
        "notes.set_note(run.directory, 'from {}')"
    )
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(elsewhere(code.format(run.id, w, w, w), plugins)) for w in "ab"]
        assert [worker.wait(120) for worker in workers] == [0, 0]
    assert set(run.tags) == {"a19", "b19"}
    assert run.note in {"from a", "from b"}


@pytest.mark.parametrize(
    "tags", [["two words"], [""], ["-x"], ["x" * 41], [3], ["a\u202eb"], [f"t{i}" for i in range(21)]]
)
def test_what_is_no_tag_is_refused_and_nothing_changes(tags: list):
    run = keep(1)
    run.tags = ["a"]
    with pytest.raises(RequestError, match=r"tag"):
        run.tags = tags
    assert run.tags == ("a",)
    with pytest.raises(RequestError, match="4,000 fit"):
        run.note = "x" * 4001
    with pytest.raises(RequestError, match="a note is a text"):
        run.note = 3  # type: ignore[assignment]


def test_the_commands_of_notes_and_tags(runs: Path):
    shell = Shell()
    run = keep(1, name="tuned")
    assert "has no note" in shell.run("%nbadapt note tuned").out
    assert "it's the best" in shell.run("%nbadapt note tuned it's the best").out
    assert run.note == "it's the best"
    shell.run(f'%nbadapt note {run.id} ""')
    assert run.note == ""
    assert shell.run("%nbadapt tag tuned a b").out.strip().endswith("a b")
    assert shell.run("%nbadapt tag tuned c -a").out.strip().endswith("b c")
    assert "a run or more needed: write  %nbadapt note RUN TEXT" in shell.run("%nbadapt note").err
    assert "no run 'gone'" in shell.run("%nbadapt tag gone a").err


# ------------------------------------------------------------------------------------------------ commands


def test_the_commands_of_the_table(runs: Path):
    shell = Shell()
    one, two = keep(1, accuracy=0.7), keep(2, accuracy=0.8, method="full")
    assert [run.id for run in shell.run("%nbadapt runs --sort -accuracy").value] == [one.id, two.id]
    assert [run.id for run in shell.run("%nbadapt runs --filter 'full done'").value] == [two.id]
    assert "did you mean --sort" in shell.run("%nbadapt runs --srt time").err
    assert "needs a value" in shell.run("%nbadapt runs --sort").err
    assert "0.8000 *" in shell.run(f"%nbadapt compare {one.id} {two.id}").out
    assert "two runs or more needed" in shell.run(f"%nbadapt compare {one.id}").err
    assert "result" in shell.tab("%nbadapt runs --sort r")
    assert shell.tab(f"%nbadapt compare {one.id} 2") == [two.id]


# ------------------------------------------------------------------------------------------------ deletion


def test_deletion_asks_and_then_takes_the_run_alone(runs: Path):
    shell = Shell()
    run, other = keep(1), keep(2)
    (run.directory / "artifacts").mkdir()
    (run.directory / "artifacts" / "weights").write_bytes(bytes(3 << 20))
    (runs / "data").mkdir()
    (runs / "data" / "abc.jsonl").write_text("{}")
    asked = shell.run(f"%nbadapt delete {run.id}")
    for part in ("Nothing was deleted yet", run.id, "3 MiB", "with artifacts", "--yes"):
        assert part in asked.out
    assert run.directory.exists()
    assert "Deleted." in shell.run(f"%nbadapt delete {run.id} --yes").out
    assert [r.id for r in nbadapt.runs()] == [other.id]
    assert sorted(path.name for path in runs.iterdir()) == sorted([other.id, "data"])
    assert "no run" in shell.run(f"%nbadapt delete {run.id} --yes").err
    assert "unknown option '--force'" in shell.run(f"%nbadapt delete {other.id} --force").err
    assert other.directory.exists()


def test_deletion_tells_who_needs_the_run():
    base = keep(1, name="tuned")
    prompted = keep(2, method="zero-shot")
    request = store.read_json(prompted.directory / "request.json")
    request["model"] = {"name": "tuned", "kind": "run", "path": str(base.directory)}
    store.write_json(prompted.directory / "request.json", request)
    assert f"its model is used by {prompted.id}" in str(deletion.ask([base]))
    assert "used by" not in str(deletion.ask([base, prompted]))


@pytest.mark.parametrize("how", ["id", "name", "directory"])
def test_deletion_tells_whose_setting_names_the_run(how: str):
    judge = keep(1, method="reward", name="judge")
    word = str(getattr(judge, how))
    keep(2, settings={"reward": word, "schedule": word})  # of a method without such a setting
    assert "named" not in str(deletion.ask([judge]))
    trained = keep(3, method="ppo", settings={"reward": word})
    keep(4, method="ppo", settings={"reward": "a_function"})
    assert f"it is named in the settings of {trained.id}, which" in str(deletion.ask([judge]))


def test_nothing_outside_the_folder_of_runs_is_deleted(runs: Path, tmp_path: Path):
    run, elsewhere_ = keep(1), tmp_path / "elsewhere"
    shutil.copytree(run.directory, elsewhere_ / run.id)
    assert "does not lie in the folder of runs" in Shell().run(f"%nbadapt delete {elsewhere_ / run.id} --yes").err
    assert (elsewhere_ / run.id / "request.json").is_file()


def test_a_run_that_is_a_link_stays_whole(runs: Path, tmp_path: Path):
    run, there = keep(1), tmp_path / "there"
    run.directory.rename(there)
    run.directory.symlink_to(there)
    assert "is a link to" in Shell().run(f"%nbadapt delete {run.id} --yes").err
    assert (run.directory / "request.json").is_file()
    assert run.directory.is_symlink()


def test_a_kill_while_deleting_leaves_no_half_run(runs: Path):
    left, run = keep(1), keep(2)
    left.directory.rename(runs / f"{deletion.TRASH}{left.id}.1")
    assert [r.id for r in nbadapt.runs()] == [run.id]
    nbadapt.delete(run, yes=True)
    assert list(runs.iterdir()) == []


# ------------------------------------------------------------------------------------------------ another process


def test_a_run_of_another_process_is_followed_and_guarded(plugins: Path, wire: Wire):
    code = "from steps_method import begin\nrun = begin(steps=100_000, seconds=0.01)\nrun.join()"
    with elsewhere(code, plugins) as worker:
        until(lambda: any(f.step and f.step > 10 for f in Overview().refresh()))
        (run,) = nbadapt.runs()
        assert "in another kernel" in str(nbadapt.runs())
        with pytest.raises(RequestError, match="at work in another kernel"):
            nbadapt.delete(run, yes=True)
        widget = RunsWidget(Overview())
        wire.say({"type": "hello"})
        wire.say({"type": "tick", "id": run.id, "on": True})
        seen = [points_of(wire)]
        for _ in range(2):
            time.sleep(0.3)
            wire.say({"type": "poll"})
            seen.append(points_of(wire))
        assert seen[0] < seen[1] < seen[2], "the curve goes on"
        wire.say({"type": "ask", "ids": [run.id]})
        assert "at work in another kernel" in wire.take()[-1][0]["problem"]
        run.note = "noted while it works"
        worker.kill()
        until(lambda: nbadapt.runs()[0].state == "killed")
        wire.say({"type": "poll"})
        (row,) = [row for content, _ in wire.take() for row in content.get("rows", [])]
        assert "killed" in row["cells"]
        assert not row["live"]
        assert run.note == "noted while it works"
    widget.close()


def points_of(wire: Wire) -> int:
    """Points of training that the last message with curves tells: the last step of the buckets."""
    import struct

    content, buffers = [m for m in wire.take() if m[0].get("curves")][-1]
    (_, split, n), *_ = content["curves"]
    assert split == "train"
    return int(struct.unpack_from(f"{n}I", buffers[0])[-1])


@pytest.mark.parametrize("version", VERSIONS)
def test_the_table_answers_while_its_own_kernel_works(
    plugins: Path, runs: Path, tmp_path: Path, version: str, monkeypatch: pytest.MonkeyPatch
):
    keep(1, name="before")
    path = os.pathsep.join([str(plugins), *filter(None, [os.environ.get("PYTHONPATH")])])
    monkeypatch.setenv("PYTHONPATH", path)
    with running(version, tmp_path, NBADAPT_UI="live", NBADAPT_RUNS=str(runs)) as kernel:
        assert kernel.run("%load_ext nbadapt").status == "ok"
        cell = kernel.send("%nbadapt runs")
        table = kernel.model(cell)
        assert kernel.finish(cell).status == "ok"
        work = kernel.send(
            "from steps_method import begin; from nbadapt import foreground\n"
            "run = begin(steps=100_000, seconds=0.01)\nforeground.hold(run)"
        )
        kernel.until(lambda: any(f.method == "steps" and (f.step or 0) > 5 for f in Overview().refresh()))
        kernel.click(table, {"type": "hello"})
        ids = kernel.until(lambda: [m["ids"] for m in kernel.messages(table) if "ids" in m])[-1]
        assert len(ids) == 2
        kernel.click(table, {"type": "tick", "id": ids[0], "on": True})
        kernel.until(lambda: any(m.get("curves") for m in kernel.messages(table)))
        kernel.click(table, {"type": "ask", "ids": ids[:1]})
        problem = kernel.until(lambda: [m["problem"] for m in kernel.messages(table) if "problem" in m])[-1]
        assert f"the run {ids[0]} is at work" in problem
        kernel.interrupt()
        assert kernel.finish(work).status == "ok"
        kernel.click(table, {"type": "close"})
        shown = [name for name, of in kernel.shown_in.items() if of == cell]
        kernel.until(lambda: all(WIDGET not in kernel.displays[name] for name in shown))


# ------------------------------------------------------------------------------------------------ the widget


def widget_of(wire: Wire, search: str = "", sort: str = "") -> RunsWidget:
    overview = Overview()
    overview.refresh()
    return RunsWidget(overview, search, sort)


def test_fifty_runs_are_told_in_small_messages(wire: Wire):
    runs = [keep(i, name=f"run_{i}", steps=20) for i in range(50)]
    for run in runs[:10]:
        run.note, run.tags = "n" * 500, [f"tag{i}" for i in range(20)]
    widget = widget_of(wire)
    wire.say({"type": "hello"})
    messages = wire.take()
    assert max(weight(m) for m in messages) < LIMIT
    rows = [row["id"] for content, _ in messages for row in content.get("rows", [])]
    assert sorted(rows) == sorted(run.id for run in runs)
    assert messages[0][0]["ids"] == [run.id for run in reversed(runs)]
    for run in runs[:12]:
        wire.say({"type": "tick", "id": run.id, "on": True})
        messages = wire.take()
        assert max(weight(m) for m in messages) < LIMIT
        assert not any("rows" in content for content, _ in messages), "rows that did not change are not told again"
    wire.say({"type": "tick", "id": runs[12].id, "on": True})
    assert "12 runs are ticked" in wire.take()[-1][0]["problem"]
    wire.say({"type": "poll"})
    assert [content for content, _ in wire.take()] == [{"answer": "poll"}]
    bundle = widget.bundle()
    assert sum(len(part.encode()) for part in bundle.values()) < 60_000
    widget.close()


def test_two_hundred_thousand_steps_are_told_in_small_messages(wire: Wire):
    run = keep(1, steps=200)
    other = keep(2, steps=200)
    with (run.directory / "events.jsonl").open("a") as file:
        for step in range(201, 200_001):
            file.write(
                f'{{"event": "metric", "time": 1e9, "step": {step}, "split": "train", '
                f'"values": {{"loss": {1 / step}}}}}\n'
            )
    widget = RunsWidget(Overview())
    wire.say({"type": "hello"})
    looks = 0
    while any(facts.live for facts in widget._feed.facts):
        wire.say({"type": "poll"})  # the log is read in pieces, so that no click waits for it
        looks += 1
        assert max(weight(m) for m in wire.take()) < LIMIT
    assert looks >= 3
    for one in (run, other):
        wire.say({"type": "tick", "id": one.id, "on": True})
    messages = wire.take()
    assert max(weight(m) for m in messages) < LIMIT
    assert points_of_run(messages, run.id) == 200_000
    widget.close()


def points_of_run(messages: list, run_id: str) -> int:
    """The last step of a run's training curve."""
    import struct

    for content, buffers in reversed(messages):
        offset = 0
        for told, split, n in content.get("curves", []):
            if (told, split) == (run_id, "train") and n:
                return int(struct.unpack_from(f"{n}I", buffers[0], offset)[-1])
            offset += 16 * n
    return 0


def test_the_widget_writes_notes_and_asks_before_it_deletes(wire: Wire):
    run, other = keep(1), keep(2)
    run.tags = ["old"]
    widget = widget_of(wire)
    wire.say({"type": "hello"})
    wire.say({"type": "edit", "id": run.id})
    assert wire.take()[-1][0]["edit"] == {"id": run.id, "note": "", "tags": "old"}
    opened = {"note": "", "tags": "old"}
    wire.say({"type": "write", "id": run.id, "note": "new", "tags": "one two", "opened": opened})
    assert (run.note, run.tags) == ("new", ("one", "two"))
    wire.say({"type": "delete", "token": ""})
    assert "ask again" in wire.take()[-1][0]["problem"]
    wire.say({"type": "ask", "ids": [run.id]})
    question = wire.take()[-1][0]["question"]
    assert run.id in question["text"]
    wire.say({"type": "delete", "token": "another"})
    assert run.directory.exists()
    wire.say({"type": "delete", "token": question["token"]})
    assert not run.directory.exists()
    assert other.directory.exists()
    assert wire.take()[-2][0]["ids"] == [other.id]
    for nonsense in ({"type": "tick"}, {"type": "edit", "id": "gone"}, {"type": 3}, {}, {"type": "ask", "ids": [None]}):
        wire.say(nonsense)
    assert widget.comm is not None
    widget.close()


def test_what_was_written_elsewhere_while_an_editor_was_open_stays(wire: Wire):
    run = keep(1)
    run.note, run.tags = "first", ["old", "out"]
    widget = widget_of(wire)
    wire.say({"type": "hello"})
    wire.say({"type": "edit", "id": run.id})
    opened = {key: text for key, text in wire.take()[-1][0]["edit"].items() if key != "id"}
    notes.change_tags(run.directory, add=["elsewhere"])  # by another kernel
    wire.say({"type": "write", "id": run.id, "note": "first", "tags": "old mine", "opened": opened})
    assert set(run.tags) == {"old", "mine", "elsewhere"}
    notes.set_note(run.directory, "theirs")
    wire.say({"type": "write", "id": run.id, "note": "first", "tags": "old mine", "opened": opened})
    assert run.note == "theirs", "a note that was not touched here is not written back"
    wire.take()
    wire.say({"type": "write", "id": run.id, "note": "mine", "tags": "old mine", "opened": opened})
    answer = wire.take()[-1][0]
    assert run.note == "theirs"
    assert "changed elsewhere meanwhile, to 'theirs'" in answer["problem"]
    wire.say({"type": "write", "id": run.id, "note": "mine", "tags": "old mine", "opened": answer["opened"]})
    assert (run.note, wire.take()[-1][0]["written"]) == ("mine", run.id)
    widget.close()


def test_the_filter_means_the_same_on_the_page_and_in_the_picture(wire: Wire):
    one, two = keep(1, name="alpha", trainable=1_000), keep(2, name="beta", trainable=2_340_000)
    one.note = "n" * 300 + " needle"
    widget = widget_of(wire)
    wire.say({"type": "hello"})
    day = one.id[:4] + "-" + one.id[4:6]
    for search, fit in {
        day: {one, two},
        "2.34": {two},
        "needle": {one},
        "accuracy": set(),
        f"{day} -beta": {one},
    }.items():
        wire.say({"type": "search", "search": search})
        wire.say({"type": "settle", "search": search, "sort": ""})
        text = widget.bundle()["text/plain"]
        assert {run for run in (one, two) if run.id in text} == fit, search
        told = widget._feed._told
        assert {told["ids"][place] for place in told["found"]["places"]} == {run.id for run in fit}, search
    widget.close()


def test_the_filter_reaches_runs_beyond_those_that_the_page_has(wire: Wire, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runs_feed, "MOST_ROWS", 4)
    kept = [keep(i, name=f"run_{i}") for i in range(9)]
    widget = widget_of(wire)
    wire.say({"type": "hello"})
    wire.take()
    wire.say({"type": "search", "search": "run_1"})
    content = [content for content, _ in wire.take()]
    ids = next(part["ids"] for part in content if "ids" in part)
    found = next(part["found"] for part in content if "found" in part)
    assert [ids[place] for place in found["places"]] == [kept[1].id]
    assert kept[1].id in [row["id"] for part in content for row in part.get("rows", [])]
    assert (len(ids), found["all"]) == (4, 1)
    wire.say({"type": "search", "search": "run"})
    found = next(content["found"] for content, _ in wire.take() if "found" in content)
    assert (len(found["places"]), found["all"]) == (4, 9)
    widget.close()


def test_reward_runs_are_compared_by_what_says_how_good_they_are(wire: Wire):
    names = ("accuracy", "margin", "brier", "calibration_error")
    keep(1, metrics=dict(zip(names, (0.7, 1.0, 0.30, 0.1), strict=True)))
    keep(2, metrics=dict(zip(names, (0.7, 2.0, 0.20, 0.2), strict=True)))
    overview = Overview()
    newest = overview.refresh()
    known = [overview.get(facts.id) for facts in newest]
    best = {line.label: line.best for line in differences(known, newest)}
    assert best["Brier"] == (0,), "the lower score is the better one"
    assert best["Margin"] == (0,)
    assert best["Calibration error"] == (1,)
    told = {
        "train_loss": 0.1,
        "train_length": 9.0,
        "length": 8.0,
        "reward_before": 0.1,
        "reward_spread": 1.0,
        "kl": 2.0,
    }
    ppo = Facts("a", metrics={**told, "reward": 0.5})
    assert main_metric(ppo) == "reward"
    assert set(measures([ppo])) == {"train_loss", "kl", "reward"}
    assert [smaller_is_better(name) for name in ("kl", "train_kl", "brier", "reward", "weekly")] == [True] * 3 + [
        False
    ] * 2


def test_the_choice_of_curve_and_quality_is_kept_while_it_can_be(wire: Wire):
    keep(1, metrics={"accuracy": 0.5, "loss": 1.0})
    widget = widget_of(wire, sort="-loss")
    feed = widget._feed
    assert feed.quality == "loss"
    wire.say({"type": "tick", "id": feed.facts[0].id, "on": True})
    wire.say({"type": "choose", "what": "curve", "value": "accuracy"})
    assert feed.curve == "accuracy"
    wire.say({"type": "choose", "what": "curve", "value": "nothing"})
    assert feed.curve == "accuracy"
    wire.say({"type": "clear"})
    assert feed.curve == "loss"
    assert [content["ui"]["ticked"] for content, _ in wire.take() if "ui" in content][-1] == []
    widget.close()


def test_the_picture_follows_the_page_and_escapes_everything(wire: Wire):
    one, two = keep(1, name="alpha", accuracy=0.6), keep(2, name="beta", accuracy=0.9)
    one.note = HOSTILE
    widget = widget_of(wire)
    for run in (one, two):
        wire.say({"type": "tick", "id": run.id, "on": True})
    wire.say({"type": "settle", "search": "", "sort": "-result"})
    bundle = widget.bundle()
    assert "<script" not in bundle["text/html"]
    assert "data:image/png;base64," in bundle["text/html"]
    lines = bundle["text/plain"].splitlines()
    assert next(i for i, text in enumerate(lines) if one.id in text) < next(
        i for i, text in enumerate(lines) if two.id in text
    )
    wire.say({"type": "settle", "search": "beta", "sort": ""})
    assert "1 runs are hidden by the filter" in widget.bundle()["text/html"]
    widget.close()


def test_sorting_by_a_metric_that_is_gone_shows_all(wire: Wire):
    feed = RunsFeed(Overview())
    assert chosen(feed.facts, "x", "") == []
    with pytest.raises(NbadaptError):
        chosen(feed.facts, "", "accuracy")

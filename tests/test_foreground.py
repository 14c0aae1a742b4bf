"""Runs in the cells of real kernels: buttons, interrupts, the background, headless, and what stays on display."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
import steps_method
from kernels import VERSIONS, WIDGET, Kernel, kernelspecs, running
from nbclient import NotebookClient

SETUP = "import signal, threading, time; from steps_method import begin; from nbadapt import foreground"


@pytest.fixture(scope="module")
def plugins(tmp_path_factory) -> str:
    folder = steps_method.install(tmp_path_factory.mktemp("plugins"))
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.fixture(scope="module", params=VERSIONS)
def shared_kernel(request, plugins, tmp_path_factory) -> Iterator[Kernel]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", plugins)
        with running(request.param, tmp_path_factory.mktemp("kernel")) as kernel:
            assert kernel.run(SETUP).status == "ok"
            yield kernel


@pytest.fixture
def kernel(shared_kernel: Kernel) -> Kernel:
    kernel = shared_kernel
    reset = "import os; os.environ.pop('NBADAPT_UI', None); os.environ['NBADAPT_HELLO_SECONDS'] = '5'"
    assert kernel.run(reset).status == "ok"
    kernel.updates = 0
    return kernel


def hold(kernel: Kernel, background: bool = False, **settings: float) -> tuple[str, str]:
    """Queue a cell that starts a run, and answer its widget as a front end does: (cell, comm id)."""
    arguments = ", ".join(f"{name}={value}" for name, value in settings.items())
    cell = kernel.send(f"run = begin({arguments}); foreground.hold(run, background={background})")
    model = kernel.model(cell)
    kernel.click(model, {"type": "hello"})
    return cell, model


def steps_seen(kernel: Kernel, model: str) -> list[int]:
    return [m["progress"][0] for m in kernel.messages(model) if "progress" in m]


def wait_for_step(kernel: Kernel, model: str, step: int) -> None:
    kernel.until(lambda: max(steps_seen(kernel, model), default=0) >= step, 20, f"step {step} was never shown")


def state_times(kernel: Kernel, state: str) -> list[float]:
    return kernel.value(f"[t for t, e in run.events if getattr(e, 'state', '') == {state!r}]")


def on_display(kernel: Kernel, cell: str) -> dict[str, str]:
    shown = [data for name, data in kernel.displays.items() if kernel.shown_in[name] == cell]
    assert len(shown) == 1, "a run has one display"
    return shown[0]


def closed(kernel: Kernel) -> set[str]:
    return {m["content"]["comm_id"] for _, m in kernel.comm if m["msg_type"] == "comm_close"}


def opened(kernel: Kernel) -> set[str]:
    return {m["content"]["comm_id"] for _, m in kernel.comm if m["msg_type"] == "comm_open"}


# ------------------------------------------------------------------------------------------------ live


def test_the_dashboard_follows_the_run_while_the_cell_is_kept(kernel: Kernel):
    cell, model = hold(kernel, steps=100, seconds=0.02)
    assert kernel.finish(cell).status == "ok"
    seen = steps_seen(kernel, model)
    assert len(seen) >= 5
    assert seen == sorted(seen)
    assert seen[-1] > 70
    assert len(kernel.messages(model)) < 30, "about five updates a second"
    assert kernel.value("run.state") == "done"


def test_the_static_result_takes_the_widgets_place(kernel: Kernel):
    before = opened(kernel)
    cell, _ = hold(kernel, steps=60, seconds=0.01)
    live = dict(on_display(kernel, cell))
    assert WIDGET in live
    assert "finetune steps" in live["text/html"], "front ends without widgets have something to read"
    assert kernel.finish(cell).status == "ok"
    shown = on_display(kernel, cell)
    assert WIDGET not in shown
    assert "done" in shown["text/plain"]
    assert "<img" in shown["text/html"]
    kernel.until(lambda: opened(kernel) - before <= closed(kernel), 5, "a widget was left open")


def test_the_worker_prints_nothing_into_the_notebook(kernel: Kernel):
    cell, _ = hold(kernel, steps=40, seconds=0.01)
    assert kernel.finish(cell).text == ""
    assert "step 40" in kernel.value("(run.path / 'output.log').read_text()")


def test_pause_resume_and_stop_act_at_once(kernel: Kernel):
    cell, model = hold(kernel, steps=5000, seconds=0.02)
    wait_for_step(kernel, model, 3)
    clicks = []
    for _ in range(5):
        clicks.append(time.time())
        kernel.click(model, {"type": "pause"})
        kernel.until(lambda: states(kernel, model)[-1] == "paused", 10, "no pause was shown")
        kernel.click(model, {"type": "resume"})
        kernel.until(lambda: states(kernel, model)[-1] == "running", 10, "no resume was shown")
    stopped = time.time()
    kernel.click(model, {"type": "stop"})
    assert kernel.finish(cell, 10).status == "ok"
    waits = [acted - clicked for clicked, acted in zip(clicks, state_times(kernel, "paused"), strict=True)]
    waits.append(state_times(kernel, "stopping")[0] - stopped)
    assert statistics.median(waits) < 0.02 + 0.1, waits
    assert kernel.value("run.state") == "stopped"
    assert int(kernel.value("(run.path / 'artifacts' / 'count.txt').read_text()")) < 5000


def states(kernel: Kernel, model: str) -> list[str]:
    return [m["head"]["state"] for m in kernel.messages(model) if "head" in m]


def test_a_paused_run_makes_no_steps(kernel: Kernel):
    cell, model = hold(kernel, steps=5000, seconds=0.01)
    wait_for_step(kernel, model, 3)
    kernel.click(model, {"type": "pause"})
    kernel.until(lambda: "paused" in states(kernel, model), 10)
    before = max(steps_seen(kernel, model))
    time.sleep(0.5)
    kernel.click(model, {"type": "hello"})
    kernel.until(lambda: [m for m in kernel.messages(model) if m["full"]][1:], 10)
    assert max(steps_seen(kernel, model)) - before <= 1
    kernel.click(model, {"type": "stop"})
    assert kernel.finish(cell, 10).status == "ok"


def test_a_reloaded_page_gets_everything_again_and_stop_works(kernel: Kernel):
    cell, model = hold(kernel, steps=5000, seconds=0.01)
    wait_for_step(kernel, model, 20)
    comms = kernel.ask("comm_info_request", {"target_name": "jupyter.widget"})
    kernel.until(lambda: comms in kernel.replies, 5)
    assert model in kernel.replies[comms]["comms"]
    state = kernel.ask("comm_msg", {"comm_id": model, "data": {"method": "request_state"}})
    before = len(kernel.comm)
    kernel.click(model, {"type": "hello"})
    kernel.until(lambda: any(m["full"] for m in kernel.messages(model, before)), 5)
    assert any(
        m["parent_header"].get("msg_id") == state and m["content"]["data"].get("method") == "update"
        for _, m in kernel.comm
    )
    kernel.click(model, {"type": "stop"})
    assert kernel.finish(cell, 10).status == "ok"
    assert kernel.value("run.state") == "stopped"
    assert states(kernel, model)[-1] == "stopped"
    assert model not in closed(kernel), "a reloaded page cannot be given the static result"


def test_a_failing_run_shows_its_error_and_frees_the_cell(kernel: Kernel):
    cell, _ = hold(kernel, steps=60, seconds=0.01, fails_at=30)
    assert kernel.finish(cell).status == "ok"
    assert "step 30 went wrong" in on_display(kernel, cell)["text/plain"]
    waited = kernel.run("run.wait()")
    assert waited.error == "RunError: step 30 went wrong"


# ------------------------------------------------------------------------------------------------ interrupts


def test_an_interrupt_stops_the_run_and_keeps_what_it_did(kernel: Kernel):
    cell, model = hold(kernel, steps=5000, seconds=0.01)
    queued = [kernel.send(f"seen = [*globals().get('seen', []), ({i}, run.state)]") for i in range(3)]
    wait_for_step(kernel, model, 5)
    interrupted = time.time()
    kernel.interrupt()
    assert kernel.finish(cell, 10).status == "ok"
    assert [kernel.finish(c).status for c in queued] == ["ok"] * 3
    assert kernel.value("seen") == [[i, "stopped"] for i in range(3)]
    assert kernel.value("run.log.reason") == "interrupted"
    assert state_times(kernel, "stopping")[0] - interrupted < 0.5
    done = int(kernel.value("(run.path / 'artifacts' / 'count.txt').read_text()"))
    assert 5 <= done < 5000
    assert kernel.value("run.metrics") == {"steps": done}
    assert "stopped" in on_display(kernel, cell)["text/plain"]


@pytest.mark.parametrize("stubborn", [{"saving": 20}, {"deaf": 3}])
def test_a_second_interrupt_leaves_at_once(kernel: Kernel, stubborn: dict[str, float]):
    """Also where the worker is in the middle of a long call and cannot notice."""
    cell, model = hold(kernel, steps=5000, seconds=0.01, **stubborn)
    queued = [kernel.send("'must not run'") for _ in range(2)]
    wait_for_step(kernel, model, 5)
    kernel.interrupt()
    kernel.until(lambda: "stopping" in states(kernel, model), 10)
    time.sleep(0.3)
    again = time.monotonic()
    kernel.interrupt()
    left = kernel.finish(cell, 10)
    assert time.monotonic() - again < 1.5
    assert left.error.startswith("RunError: the run ")
    assert "%nbadapt resume" in left.error
    assert [kernel.finish(c).status for c in queued] == ["aborted"] * 2
    assert kernel.run("run.join(10); assert not run.alive").status == "ok"
    assert kernel.value("run.state") == "stopped"
    kernel.until(lambda: WIDGET not in on_display(kernel, cell), 5, "the widget was left on display")


def test_interrupts_are_the_kernels_own_again(kernel: Kernel):
    cell, _ = hold(kernel, steps=30, seconds=0.01)
    assert kernel.finish(cell).status == "ok"
    handlers = "(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    assert kernel.value(handlers) is True  # as ipykernel sets it for every cell
    sleeping = kernel.send("print('asleep', flush=True); time.sleep(20)")
    kernel.until(lambda: kernel.cells[sleeping].text, 10)
    time.sleep(0.5)  # the text comes before the sleep
    kernel.interrupt()
    assert kernel.finish(sleeping, 10).error == "KeyboardInterrupt: "


@pytest.mark.parametrize("moment", ["show", "_show_result"])
def test_an_interrupt_while_something_is_drawn_is_no_different(kernel: Kernel, moment: str):
    slow = (
        "from nbadapt import view\n"
        f"kept = view.KernelView.{moment}\n"
        "def slow(it): print('drawing', flush=True); time.sleep(1); kept(it)\n"
        f"view.KernelView.{moment} = slow"
    )
    assert kernel.run(slow).status == "ok"
    try:
        cell = kernel.send("run = begin(steps=30); foreground.hold(run)")
        kernel.until(lambda: kernel.cells[cell].text, 10)
        kernel.interrupt()
        assert kernel.finish(cell, 10).status == "ok"
    finally:
        kernel.run(f"view.KernelView.{moment} = kept")
    assert WIDGET not in on_display(kernel, cell)


def test_nothing_holds_on_to_a_run_that_is_shown(kernel: Kernel):
    """It may hold a model."""
    for background in (False, True):
        cell, model = hold(kernel, background=background, steps=50)
        kernel.click(model, {"type": "hello"})  # a second page, which goes on showing the widget
        assert kernel.finish(cell).status == "ok"
        assert kernel.run("run.wait(); import gc, weakref; it = weakref.ref(run); del run").status == "ok"
        assert kernel.run("begin(steps=1).join(); time.sleep(0.2); gc.collect()").status == "ok"
        assert kernel.value("it() is None") is True


# ------------------------------------------------------------------------------------------------ run all


def test_an_error_after_the_run_aborts_the_queued_cells(kernel: Kernel):
    failing = kernel.send("foreground.hold(begin(steps=50)); ran = []; raise ValueError('later')")
    queued = [kernel.send("ran.append(1)") for _ in range(3)]
    kernel.click(kernel.model(failing), {"type": "hello"})
    assert kernel.finish(failing).error == "ValueError: later"
    assert [kernel.finish(cell).status for cell in queued] == ["aborted"] * 3
    assert kernel.value("ran") == []


# ------------------------------------------------------------------------------------------------ background


def test_the_background_returns_and_goes_on(kernel: Kernel):
    cell, model = hold(kernel, background=True, steps=300, seconds=0.01)
    following = kernel.send("print('the next cell', run.alive)")
    assert kernel.finish(cell, 10).status == "ok"
    assert kernel.finish(following, 10).text == "the next cell True\n"
    wait_for_step(kernel, model, 100)
    kernel.until(lambda: WIDGET not in on_display(kernel, cell), 15, "no static result took the widget's place")
    assert "done" in on_display(kernel, cell)["text/plain"]
    assert kernel.cells[following].outputs == [{"name": "stdout", "text": "the next cell True\n"}]
    assert kernel.value("run.state") == "done"


def test_waiting_for_a_background_run_pumps_and_stops_at_an_interrupt(kernel: Kernel):
    cell, model = hold(kernel, background=True, steps=5000, seconds=0.01)
    assert kernel.finish(cell, 10).status == "ok"
    waiting = kernel.send("print('waiting', flush=True); state = run.wait().state")
    kernel.until(lambda: kernel.cells[waiting].text, 10)
    kernel.click(model, {"type": "pause"})
    kernel.until(lambda: states(kernel, model)[-1] == "paused", 5, "wait does not pump")
    kernel.click(model, {"type": "resume"})
    kernel.until(lambda: states(kernel, model)[-1] == "running", 5)
    kernel.interrupt()
    assert kernel.finish(waiting, 10).status == "ok"
    assert kernel.value("state") == "stopped"
    assert WIDGET not in on_display(kernel, cell), "the result is there when wait returns"
    assert len(kernel.cells[waiting].outputs) == 1, "wait shows no second dashboard"


def test_the_background_without_a_front_end_keeps_the_cell(kernel: Kernel):
    kernel.run("os.environ['NBADAPT_HELLO_SECONDS'] = '0.3'")
    cell = kernel.run("run = begin(steps=100); foreground.hold(run, background=True); print(run.alive)")
    assert cell.text == "False\n"


# ------------------------------------------------------------------------------------------------ headless


def test_without_a_front_end_little_is_shown_and_nobody_is_waited_for(kernel: Kernel):
    cell = kernel.send("start = time.time(); run = begin(steps=30); foreground.hold(run); took = time.time() - start")
    assert kernel.finish(cell).status == "ok"
    assert kernel.value("took") < 4, "shorter than the wait for a front end"
    assert kernel.updates == 1, "the result alone"
    assert "done" in on_display(kernel, cell)["text/plain"]


def test_settings_that_make_no_sense_cost_no_run(kernel: Kernel):
    kernel.run("os.environ['NBADAPT_HELLO_SECONDS'] = 'soon'; os.environ['NBADAPT_UI'] = 'fancy'")
    cell, _ = hold(kernel, steps=30)
    assert kernel.finish(cell).status == "ok"
    assert "done" in on_display(kernel, cell)["text/plain"]


def test_headless_updates_are_one_every_tenth(kernel: Kernel):
    kernel.run("os.environ['NBADAPT_HELLO_SECONDS'] = '0'")
    cell = kernel.send("run = begin(steps=200); foreground.hold(run)")
    assert kernel.finish(cell).status == "ok"
    assert 5 <= kernel.updates <= 11
    assert kernel.finish(cell).text == ""
    assert WIDGET not in on_display(kernel, cell)


def test_a_front_end_that_comes_late_gets_its_dashboard(kernel: Kernel):
    kernel.run("os.environ['NBADAPT_HELLO_SECONDS'] = '0'")
    cell = kernel.send("run = begin(steps=5000, seconds=0.002); foreground.hold(run)")
    model = kernel.model(cell)
    kernel.until(lambda: kernel.updates >= 1, 10)
    assert WIDGET not in on_display(kernel, cell)
    kernel.click(model, {"type": "hello"})
    kernel.until(lambda: WIDGET in on_display(kernel, cell), 5, "the widget did not come back")
    kernel.click(model, {"type": "stop"})
    assert kernel.finish(cell, 10).status == "ok"
    assert WIDGET not in on_display(kernel, cell)


@pytest.mark.parametrize("mode", ["static", "text"])
def test_the_mode_can_be_forced(kernel: Kernel, mode: str):
    kernel.run(f"os.environ['NBADAPT_UI'] = {mode!r}; os.environ['NBADAPT_HELLO_SECONDS'] = '60'")
    before = opened(kernel)
    cell = kernel.send("run = begin(steps=200); foreground.hold(run)")
    result = kernel.finish(cell)
    assert result.status == "ok"
    assert opened(kernel) == before, "no widget was made"
    if mode == "static":
        assert 5 <= kernel.updates <= 11
        assert result.text == ""
    else:
        lines = [line for line in result.text.splitlines() if " % " in line]
        assert 5 <= len(lines) <= 10
        assert "done" in result.text
        assert kernel.updates == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_nbclient_executes_a_notebook_and_saves_the_result(version, plugins, tmp_path, monkeypatch):
    """Without a wait for a front end, and without the state of a widget that nobody saw."""
    monkeypatch.setenv("PYTHONPATH", plugins)
    monkeypatch.setenv("JUPYTER_PATH", str(kernelspecs()))
    monkeypatch.setenv("NBADAPT_HELLO_SECONDS", "60")
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(SETUP + "; run = begin(steps=150); foreground.hold(run, background=True)"),
            nbformat.v4.new_code_cell("print(run.state)"),
        ]
    )
    client = NotebookClient(notebook, kernel_name=version, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    first, second = (cell.outputs for cell in notebook.cells)
    assert [output.output_type for output in first] == ["display_data"]
    assert set(first[0].data) == {"text/html", "text/plain"}
    assert "done" in first[0].data["text/plain"]
    assert second[0].text == "done\n"
    assert not notebook.metadata.get("widgets")
    assert len(nbformat.writes(notebook)) < 120_000


# ------------------------------------------------------------------------------------------------ trouble


BREAKS = {
    "no widget": "from nbadapt.widgets import dashboard as m; broken = m.Dashboard, '__init__'",
    "no update": "from nbadapt.widgets import feed as m; broken = m.Feed, 'message'",
    "no result": "from nbadapt.widgets import report as m; broken = m, 'bundle'",
    "no display": "from IPython.core.display_functions import DisplayHandle; broken = DisplayHandle, 'update'",
}


@pytest.mark.parametrize("what", BREAKS)
def test_trouble_with_the_display_costs_no_run(kernel: Kernel, what: str):
    kernel.run(f"{BREAKS[what]}; owner, name = broken; kept = getattr(owner, name)")
    kernel.run("def fail(*args, **more): raise OSError('broken on purpose')\nsetattr(owner, name, fail)")
    try:
        cell = kernel.send("run = begin(steps=60); foreground.hold(run)")
        if what != "no widget":
            kernel.click(kernel.model(cell), {"type": "hello"})
        result = kernel.finish(cell)
        assert result.status == "ok", result.error
    finally:
        kernel.run("setattr(owner, name, kept)")
    assert kernel.value("run.state") == "done"
    assert "broken on purpose" in kernel.value("[n.text for n in run.log.notices][0]")


# ------------------------------------------------------------------------------------------------ scripts


SCRIPT = "from steps_method import begin; from nbadapt import foreground\nrun = begin(steps={steps})\n"
SCRIPT += "print('begun', flush=True); foreground.hold(run, background=True); print(run.state, run.alive)"


def script(plugins: str, folder: Path, *command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": plugins},
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize("command", [("-c",), ("-m", "IPython", "--colors=NoColor", "-c")])
def test_a_script_or_a_terminal_shows_lines(plugins, tmp_path, command):
    process = script(plugins, tmp_path, *command, SCRIPT.format(steps=200))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out.split() == ["begun", "done", "False"]
    shares = [line for line in err.splitlines() if " % " in line]
    assert 5 <= len(shares) <= 10
    assert err.count("done in") == 1


def test_a_script_stops_at_the_first_interrupt(plugins, tmp_path):
    process = script(plugins, tmp_path, "-c", SCRIPT.format(steps=5000))
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert out == "stopped False\n"
    assert "Traceback" not in err

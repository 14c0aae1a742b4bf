"""The message pump in real kernels: widget messages are handled while a cell runs, and nothing else changes."""

from __future__ import annotations

import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from kernels import VERSIONS, Kernel, running

from nbadapt.pump import MessagePump

SETUP = """
import signal, threading, time
from nbadapt.pump import MessagePump

clicks = []

def opened(comm, message):
    def on_msg(message):
        clicks.append(message["content"]["data"])
        comm.send({"heard": clicks[-1], "at": time.time()})
    comm.on_msg(on_msg)

get_ipython().kernel.comm_manager.register_target("clicks", opened)

def pump_until(condition, seconds=30):
    end = time.monotonic() + seconds
    with MessagePump() as pump:
        while not condition() and time.monotonic() < end:
            pump.poll(0.05)
    return pump
"""


@pytest.fixture(scope="module", params=VERSIONS)
def shared_kernel(request, tmp_path_factory) -> Iterator[Kernel]:
    with running(request.param, tmp_path_factory.mktemp("kernel")) as kernel:
        assert kernel.run(SETUP).status == "ok"
        yield kernel


@pytest.fixture
def kernel(shared_kernel: Kernel) -> Kernel:
    assert shared_kernel.run("clicks.clear()").status == "ok"
    return shared_kernel


def start(kernel: Kernel, code: str) -> str:
    """Send a cell and wait until it runs: what arrives in the same moment as a cell still waits for its end."""
    cell = kernel.send("print('running')\n" + code)
    kernel.until(lambda: kernel.cells[cell].text, 20, "the cell did not start")
    return cell


def open_comm(kernel: Kernel) -> str:
    kernel.ask("comm_open", {"comm_id": "c1", "target_name": "clicks", "data": {}})
    return "c1"


def click(kernel: Kernel, what: object) -> None:
    kernel.ask("comm_msg", {"comm_id": "c1", "data": what})


def heard(kernel: Kernel) -> list[object]:
    return [m["content"]["data"]["heard"] for _, m in kernel.comm if "heard" in m["content"].get("data", {})]


def test_the_kernels_are_the_oldest_and_the_newest_supported(tmp_path):
    found = []
    for version in VERSIONS:
        with running(version, tmp_path) as kernel:
            found.append(kernel.run("import ipykernel; print(ipykernel.__version__)").text.strip())
    assert found[0] == "6.29.5"
    assert int(found[1].split(".")[0]) >= 7


def test_clicks_act_while_the_cell_runs_and_soon(kernel: Kernel):
    open_comm(kernel)
    before = len(heard(kernel))
    cell = start(kernel, "pump = pump_until(lambda: 'end' in clicks)")
    waits = []
    for i in range(12):
        sent = time.monotonic()
        click(kernel, i)
        kernel.until(lambda seen=before + i + 1: len(heard(kernel)) >= seen, 10)
        waits.append(time.monotonic() - sent)
        time.sleep(0.02)
    click(kernel, "end")
    assert kernel.finish(cell).status == "ok"
    assert kernel.value("clicks") == [*range(12), "end"]
    assert statistics.median(waits) < 0.1, waits


def test_a_comm_opens_while_the_cell_runs(kernel: Kernel):
    cell = start(kernel, "_ = pump_until(lambda: clicks, 20)")
    kernel.ask("comm_open", {"comm_id": "c2", "target_name": "clicks", "data": {}})
    kernel.ask("comm_msg", {"comm_id": "c2", "data": "hello"})
    assert kernel.finish(cell).status == "ok"
    assert kernel.value("clicks") == ["hello"]


def test_a_reloaded_page_finds_the_widgets_while_the_cell_runs(kernel: Kernel):
    open_comm(kernel)
    cell = start(kernel, "_ = pump_until(lambda: clicks)")
    comms = kernel.ask("comm_info_request", {"target_name": "clicks"})
    info = kernel.ask("kernel_info_request", {})
    kernel.until(lambda: comms in kernel.replies and info in kernel.replies, 10)
    assert not kernel.cells[cell].idle
    assert "c1" in kernel.replies[comms]["comms"]
    assert kernel.replies[info]["status"] == "ok"
    click(kernel, "end")
    assert kernel.finish(cell).status == "ok"


def test_queued_cells_run_afterwards_in_order(kernel: Kernel):
    open_comm(kernel)
    cells = [start(kernel, "order = []; _ = pump_until(lambda: 'go' in clicks)")]
    for i in range(6):
        cells.append(kernel.send(f"order.append(({i}, len(clicks)))"))
        click(kernel, i)
    completion = kernel.ask("complete_request", {"code": "ord", "cursor_pos": 3})
    time.sleep(0.3)
    assert completion not in kernel.replies, "only widget messages may overtake"
    click(kernel, "go")
    cells.append(kernel.send("order.append('last')"))
    assert [kernel.finish(cell).status for cell in cells] == ["ok"] * 8
    assert kernel.value("order") == [[i, 7] for i in range(6)] + ["last"]
    kernel.until(lambda: completion in kernel.replies, 10)


def test_cells_queued_at_the_last_moment_keep_their_order(kernel: Kernel):
    """Messages that arrive while the pump gives the channel back must not overtake those that it held."""
    assert kernel.run("order = []").status == "ok"
    for round_ in range(10):
        cells = [kernel.send("_ = pump_until(lambda: False, 0.05)")]
        for i in range(10):
            cells.append(kernel.send(f"order.append({round_ * 10 + i})"))
            time.sleep(0.01)
        assert {kernel.finish(cell).status for cell in cells} == {"ok"}
    assert kernel.value("order") == list(range(100))


def test_an_error_aborts_the_queued_cells_and_the_kernel_goes_on(kernel: Kernel):
    open_comm(kernel)
    failing = start(kernel, "ran = []; _ = pump_until(lambda: clicks); raise ValueError('after the pump')")
    queued = [kernel.send(f"ran.append({i})") for i in range(5)]
    click(kernel, "go")
    assert kernel.finish(failing).error == "ValueError: after the pump"
    assert [kernel.finish(cell).status for cell in queued] == ["aborted"] * 5
    assert kernel.value("ran") == []


def test_an_error_inside_the_pump_aborts_too(kernel: Kernel):
    failing = kernel.send("ran = []\nwith MessagePump() as pump:\n    pump.poll(0.8)\n    pump.poll(0.8)\n    1 / 0")
    queued = [kernel.send("ran.append(1)") for _ in range(3)]
    assert kernel.finish(failing).error == "ZeroDivisionError: division by zero"
    assert [kernel.finish(cell).status for cell in queued] == ["aborted"] * 3
    assert kernel.value("ran") == []


def test_output_stays_with_the_cell_after_a_click(kernel: Kernel):
    open_comm(kernel)
    cell = start(
        kernel,
        "before = signal.getsignal(signal.SIGINT)\n"
        "_ = pump_until(lambda: clicks)\n"
        "print('after the click')\n"
        "thread = threading.Thread(target=print, args=('from a thread',)); thread.start(); thread.join()",
    )
    click(kernel, "go")
    assert kernel.finish(cell).text == "running\nafter the click\nfrom a thread\n"


def test_interrupts_work_as_before_afterwards(kernel: Kernel):
    """Each handled message would swap the kernel's SIGINT handlers: the last one must not stay."""
    open_comm(kernel)
    idle = start(kernel, "_ = pump_until(lambda: len(clicks) == 3)")
    for i in range(3):
        click(kernel, i)
    assert kernel.finish(idle).status == "ok"
    time.sleep(0.2)
    kernel.interrupt()  # an idle kernel ignores it
    sleeping = kernel.send("print('asleep', flush=True); time.sleep(20)")
    kernel.until(lambda: kernel.cells[sleeping].text, 10)
    kernel.interrupt()
    assert kernel.finish(sleeping, 10).error == "KeyboardInterrupt: "
    assert kernel.value("1 + 1") == 2


def test_the_cells_own_handler_survives_a_click(kernel: Kernel):
    open_comm(kernel)
    cell = start(
        kernel,
        "hits = []\n"
        "before = signal.signal(signal.SIGINT, lambda *_: hits.append(len(clicks)))\n"
        "_ = pump_until(lambda: hits)\n"
        "assert signal.signal(signal.SIGINT, before) is not before",
    )
    click(kernel, "one")
    kernel.until(lambda: "one" in heard(kernel)[-1:], 10)
    kernel.interrupt()
    result = kernel.finish(cell, 10)
    assert result.status == "ok", result.error
    assert kernel.value("hits") == [1]


def test_a_failing_click_does_not_reach_the_cell(kernel: Kernel):
    setup = """
def broken(comm, message):
    def on_msg(message): raise SystemError("a click went wrong")
    comm.on_msg(on_msg)

get_ipython().kernel.comm_manager.register_target("broken", broken)
"""
    assert kernel.run(setup).status == "ok"
    open_comm(kernel)
    cell = start(kernel, "_ = pump_until(lambda: clicks)")
    kernel.ask("comm_open", {"comm_id": "b", "target_name": "broken", "data": {}})
    kernel.ask("comm_msg", {"comm_id": "b", "data": 1})
    click(kernel, "go")
    assert kernel.finish(cell).status == "ok"


def test_a_second_pump_and_other_threads_only_sleep(kernel: Kernel):
    cell = kernel.run(
        "live = []\n"
        "def try_it():\n"
        "    with MessagePump() as pump: live.append(pump._channel is not None); pump.poll(0.01)\n"
        "with MessagePump() as outer:\n"
        "    try_it()\n"
        "    live.append(outer._channel is not None)\n"
        "thread = threading.Thread(target=try_it); thread.start(); thread.join()\n"
        "try_it()"
    )
    assert cell.status == "ok", cell.error
    assert kernel.value("live") == [False, True, False, True]


@pytest.mark.parametrize("kernel_object", ["object()", "None"])
def test_without_a_kernel_that_it_knows_the_pump_sleeps(kernel_object):
    script = (
        "import time\n"
        "from IPython.core.interactiveshell import InteractiveShell\n"
        f"shell = InteractiveShell.instance(); shell.kernel = {kernel_object}\n"
        "from nbadapt.pump import MessagePump\n"
        "start = time.monotonic()\n"
        "with MessagePump() as pump:\n"
        "    assert pump._channel is None\n"
        "    pump.poll(0.2)\n"
        "assert 0.2 <= time.monotonic() - start < 5\n"
        "print('slept')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "slept\n"


def test_in_a_script_the_pump_sleeps():
    start = time.monotonic()
    with MessagePump() as pump:
        assert pump._channel is None
        pump.poll(0.1)
    assert time.monotonic() - start >= 0.1
    assert threading.current_thread() is threading.main_thread()

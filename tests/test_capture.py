"""What a worker prints, logs or warns of stays out of the notebook; what others print does not."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import warnings

from nbadapt.capture import Capture, quiet_libraries


def test_only_the_threads_own_output_is_captured(tmp_path, capsys, recwarn):
    inside, outside = threading.Event(), threading.Event()
    handler = logging.StreamHandler(sys.stderr)
    logging.getLogger("transformers").addHandler(handler)

    def work():
        with Capture(tmp_path / "output.log"):
            print("worker prints")
            print("worker errs", file=sys.stderr)
            warnings.warn("worker warns", UserWarning, stacklevel=1)
            logging.getLogger("transformers").warning("worker logs")
            inside.set()
            outside.wait(10)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        thread = threading.Thread(target=work)
        thread.start()
        assert inside.wait(10)
        print("main prints")
        logging.getLogger("transformers").warning("main logs")
        outside.set()
        thread.join()
    logging.getLogger("transformers").removeHandler(handler)
    log = (tmp_path / "output.log").read_text()
    assert "worker prints" in log
    assert "worker errs" in log
    assert "worker warns" in log
    assert "worker logs" in log
    out, err = capsys.readouterr()
    assert out == "main prints\n"
    assert err == "main logs\n"
    assert not recwarn.list


def test_everything_is_put_back_and_an_empty_log_is_removed(tmp_path):
    before = (sys.stdout, sys.stderr, warnings.showwarning)
    with Capture(tmp_path / "output.log"):
        assert sys.stdout is not before[0]
    assert (sys.stdout, sys.stderr, warnings.showwarning) == before
    assert not (tmp_path / "output.log").exists()


def test_others_see_the_stream_that_was_there_and_the_worker_its_log(tmp_path, capfd):
    inside, outside = threading.Event(), threading.Event()
    log = tmp_path / "output.log"
    seen = []

    def work():
        with Capture(log):
            subprocess.run([sys.executable, "-c", "print('from the worker')"], stdout=sys.stdout, check=True)
            seen.append((sys.stdout.encoding, sys.stdout.errors))
            inside.set()
            outside.wait(10)

    before = (sys.stdout.encoding, sys.stdout.errors)
    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(20)
    assert (sys.stdout.encoding, sys.stdout.errors) == before
    assert sys.stdout.writable()
    subprocess.run([sys.executable, "-c", "print('from a cell')"], stdout=sys.stdout, check=True)
    outside.set()
    thread.join()
    assert seen == [("utf-8", "backslashreplace")]
    assert log.read_text() == "from the worker\n"
    assert capfd.readouterr().out == "from a cell\n"


def test_a_cells_catch_warnings_that_outlives_the_capture_does_no_harm(tmp_path):
    with warnings.catch_warnings():
        with Capture(tmp_path / "output.log"):
            stale = warnings.showwarning
        warnings.showwarning = stale
        warnings.simplefilter("always")
        told = []
        stale.__self__._showwarning = lambda message, *rest: told.append(str(message))
        warnings.warn("of the cell", UserWarning, stacklevel=1)
    assert told == ["of the cell"]


def test_quiet_libraries_leave_the_users_filters_alone():
    message = "`is_gradient_checkpointing` is deprecated and so on"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with quiet_libraries():
            with quiet_libraries():
                warnings.warn(message, FutureWarning, stacklevel=1)
            warnings.warn(message, FutureWarning, stacklevel=1)
            assert caught == []
            warnings.filterwarnings("ignore", "what the user does not want to see")  # in a cell, meanwhile
        warnings.warn("what the user does not want to see", UserWarning, stacklevel=1)
        warnings.warn(message, FutureWarning, stacklevel=1)
    assert [str(warning.message) for warning in caught] == [message]


def test_quiet_libraries_stand_filters_that_were_reset():
    with warnings.catch_warnings(), quiet_libraries():
        warnings.resetwarnings()

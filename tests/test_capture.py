"""What a worker prints, logs or warns of stays out of the notebook; what others print does not."""

from __future__ import annotations

import logging
import sys
import threading
import warnings

from nbadapt.capture import Capture


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

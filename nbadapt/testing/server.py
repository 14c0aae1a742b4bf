"""A server on this machine that answers a provider as its service would, or misbehaves."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal

Manner = Literal["answers", "refuses", "busy", "talks nonsense", "cuts off", "is silent"]
LONGEST_SILENCE = 30.0  # seconds


class Server:
    """Answers the question "word 7" with "answer 7", in the form that `reply` gives it.

    Args:
        reply: body of the request, text -> content type and body of the response.

    Attributes:
        url: where it is.
        manner: what it does with a request.
        asked: how many requests came.
    """

    def __init__(self, reply: Callable[[bytes, str], tuple[str, bytes]]) -> None:
        self.manner: Manner = "answers"
        self.asked = 0
        self._reply, self._lock, self._over = reply, threading.Lock(), threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        """Do with one request what the manner says."""
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        with self._lock:
            self.asked += 1
        match self.manner:
            case "answers":
                number = re.search(rb"word (\d+)", body)
                kind, data = self._reply(body, f"answer {number[1].decode() if number else '?'}")
                _send(handler, 200, kind, data)
            case "refuses":  # and says which key it was, as some do
                said = str(dict(handler.headers)).replace('"', "").encode()
                _send(handler, 401, "application/json", b'{"error": {"message": "wrong key: ' + said + b'"}}')
            case "busy":
                _send(handler, 503, "text/plain", b"busy")
            case "talks nonsense":
                _send(handler, 200, "text/html", b"<html>Welcome!</html>")
            case "cuts off":
                handler.close_connection = True
                handler.connection.close()
            case "is silent":
                self._over.wait(LONGEST_SILENCE)


def _send(handler: BaseHTTPRequestHandler, status: int, kind: str, data: bytes) -> None:
    try:
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)
    except OSError:  # who asked has gone
        handler.close_connection = True


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            server.handle(self)

        do_GET = do_POST  # noqa: N815 - as above

        def log_message(self, *_: Any) -> None:
            return

    return Handler

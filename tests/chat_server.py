"""A real HTTP server on loopback that answers in OpenAI's format, and misbehaves where it is told to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]


@dataclass
class Trouble:
    """What is done instead of answering: a status, silence, or a connection that is cut."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = field(default_factory=lambda: {"error": {"message": "trouble"}})
    silent: float = 0.0  # seconds until the connection is cut


@dataclass
class Asked:
    """One request, as it came."""

    time: float
    path: str
    headers: dict[str, str]
    body: Body


class ChatServer:
    """Answers with `answer(body)`; `trouble(number, body)` may say otherwise, numbers count from 1.

    Attributes:
        url: the base URL.
        asked: the chat completions that came, in order.
        most: the largest number that were under way at a time.
    """

    def __init__(self) -> None:
        self.answer: Callable[[Body], str] = lambda body: body["messages"][-1]["content"].upper()
        self.trouble: Callable[[int, Body], Trouble | None] = lambda _number, _body: None
        self.delay = 0.0
        self.models = ["tiny", "larger"]
        self.asked: list[Asked] = []
        self.most = self._under_way = 0
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def texts(self) -> list[str]:
        """The last turn of every request."""
        return [asked.body["messages"][-1]["content"] for asked in self.asked]

    def close(self) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def handle(self, handler: BaseHTTPRequestHandler, body: Body) -> None:
        with self._lock:
            self.asked.append(
                Asked(
                    time.monotonic(),
                    handler.path,
                    {name.lower(): value for name, value in handler.headers.items()},
                    body,
                )
            )
            number = len(self.asked)
            self._under_way += 1
            self.most = max(self.most, self._under_way)
        try:
            trouble = self.trouble(number, body)
            self._over.wait(trouble.silent if trouble else self.delay)
            if trouble is None:
                send(handler, 200, completion(body, self.answer(body)))
            elif trouble.status:
                send(handler, trouble.status, trouble.body, trouble.headers)
            else:
                handler.close_connection = True
                handler.connection.close()
        finally:
            with self._lock:
                self._under_way -= 1


def completion(body: Body, text: str) -> Body:
    """A chat completion; a word is a token."""
    said = sum(len(message["content"].split()) for message in body["messages"])
    usage = {"prompt_tokens": said, "completion_tokens": len(text.split())}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
        "usage": {**usage, "total_tokens": sum(usage.values())},
    }


def send(handler: BaseHTTPRequestHandler, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
    page = isinstance(body, str)
    data = (body if page else json.dumps(body)).encode()
    try:
        handler.send_response(status)
        handler.send_header("Content-Type", "text/html" if page else "application/json")
        handler.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)
    except OSError:  # the client has gone
        handler.close_connection = True


def _handler(server: ChatServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/v1/chat/completions":
                server.handle(self, body)
            else:
                send(self, 404, {"detail": "Not Found"})

        def do_GET(self) -> None:
            listed = [{"id": name, "object": "model"} for name in server.models]
            send(self, 200, {"object": "list", "data": listed})

        def log_message(self, *_: Any) -> None:
            pass

        def handle_error(self) -> None:
            pass

    return Handler


@contextmanager
def chat_server() -> Iterator[ChatServer]:
    server = ChatServer()
    try:
        yield server
    finally:
        server.close()

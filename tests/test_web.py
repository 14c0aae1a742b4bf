"""Web pages, from a real server on loopback that the tests allow by name."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import tiny_models

import nbadapt
from nbadapt.errors import DataError
from nbadapt.indexing.index import close_all
from nbadapt.indexing.web import Reach, crawl

LOCAL = "127.0.0.1"
Answer = tuple[int, dict[str, str], bytes]


def page(text: str, *links: str) -> Answer:
    anchors = "".join(f'<a href="{link}">to {link}</a>' for link in links)
    return 200, {"Content-Type": "text/html; charset=utf-8"}, f"<p>{text}</p>{anchors}".encode()


class Site:
    """A server whose pages a test sets; `asked` lists the paths that were asked for."""

    def __init__(self) -> None:
        self.pages: dict[str, Answer] = {}
        self.asked: list[str] = []
        self.agents: set[str] = set()
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append(self.path)
                site.agents.add(self.headers["User-Agent"])
                status, headers, body = site.pages.get(self.path, (404, {}, b""))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer((LOCAL, 0), Handler)
        self.url = f"http://{LOCAL}:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.close()
    close_all()


def read(site: Site, path: str = "/", depth: int = 0, pages: int = 100, allowed: Any = (LOCAL,)) -> dict[str, str]:
    """Path -> the text of the page, or why there is none, in order."""
    found = crawl(site.url + path, Reach(depth, pages, allowed))
    return {url.removeprefix(site.url): str(r) if isinstance(r, DataError) else r.text for url, r in found}


def test_one_page_is_read_and_its_links_are_not_followed(site):
    site.pages["/a"] = page("Größe &amp; more", "/b")
    assert read(site, "/a#part") == {"/a": "Größe & more\n\nto /b"}
    assert site.asked == ["/robots.txt", "/a"]
    assert site.agents == {"nbadapt"}


def test_a_site_is_read_breadth_first_to_a_depth_and_a_count(site):
    site.pages |= {
        "/": page("start", "b", "c?x=1", "#top", "http://example.org/", "mailto:a@b.c", "http://[", "b#2", "/gone"),
        "/b": page("b", "/d", "/"),
        "/c?x=1": page("c", "/d"),
        "/d": page("d", "/e"),
        "/e": page("e"),
    }
    assert list(read(site, depth=1)) == ["/", "/b", "/c?x=1", "/gone"]
    assert list(read(site, depth=9)) == ["/", "/b", "/c?x=1", "/gone", "/d", "/e"]
    assert list(read(site, depth=9, pages=3)) == ["/", "/b", "/c?x=1"]
    assert read(site, depth=1)["/gone"] == "the server says 404 Not Found"


def test_robots_txt_is_obeyed(site):
    rules = b"User-agent: other\nDisallow: /\n\nUser-agent: *\nDisallow: /private\n"
    site.pages |= {
        "/robots.txt": (200, {"Content-Type": "text/plain"}, rules),
        "/": page("start", "/private/x", "/leads", "/open"),
        "/leads": (302, {"Location": "/private/y"}, b""),
        "/private/x": page("no"),
        "/private/y": page("no"),
        "/open": page("open"),
    }
    found = read(site, depth=1)
    assert found["/private/x"] == found["/leads"] == "the host's robots.txt forbids it"
    assert found["/open"] == "open"
    assert "/private/x" not in site.asked
    site.pages["/robots.txt"] = (503, {}, b"")
    assert "robots.txt cannot be read" in read(site)["/"]


def test_redirects_stay_on_the_host_and_end(site):
    site.pages |= {
        "/old": (301, {"Location": "/new"}, b""),
        "/new": page("new"),
        "/round": (302, {"Location": "/round"}, b""),
        "/away": (302, {"Location": "http://example.org/"}, b""),
        "/file": (302, {"Location": "file:///etc/passwd"}, b""),
    }
    assert read(site, "/old") == {"/old": "new"}
    assert "more than 5 times" in read(site, "/round")["/round"]
    assert "another host, example.org" in read(site, "/away")["/away"]
    assert "what is no web page" in read(site, "/file")["/file"]


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "10.0.0.1", "169.254.169.254", "0.0.0.0", "2130706433"]
)
def test_addresses_that_are_not_public_are_refused(host, site):
    port = site.server.server_port
    ((_, answer),) = crawl(f"http://{host}:{port}/", Reach())
    assert isinstance(answer, DataError)
    assert "which is not public: allow it with --allow-host" in str(answer) or "does not answer" in str(answer)
    assert "\n" not in str(answer)
    assert site.asked == []


def test_a_redirect_to_a_private_address_is_refused(site):
    from nbadapt.indexing.web import _fetch

    site.pages["/"] = (302, {"Location": f"http://localhost:{site.server.server_port}/secret"}, b"")
    with pytest.raises(DataError, match=r"localhost is the address .* which is not public"):
        _fetch(site.url + "/", [LOCAL], same_site=False)
    assert site.asked == ["/"]


def test_what_is_no_page_is_told(site):
    site.pages |= {
        "/image": (200, {"Content-Type": "image/png"}, b"x"),
        "/empty": page(""),
        "/plain": (200, {"Content-Type": "text/plain; charset=nothing"}, "Größe".encode()),
        "/long": (200, {"Content-Type": "text/plain"}, b"x" * 10_000_001),
    }
    assert "of the kind image/png" in read(site, "/image")["/image"]
    assert "no text" in read(site, "/empty")["/empty"]
    assert read(site, "/plain") == {"/plain": "Größe"}
    assert "longer than 10,000,000 bytes" in read(site, "/long")["/long"]


def test_pages_are_indexed_and_followed(site):
    site.pages |= {
        "/": page("The film was dull.", "/b", "/c"),
        "/b": page("A film about bells."),
        "/c": page("Gone soon."),
    }

    def build() -> Any:
        model = str(tiny_models.folder("bert"))
        return nbadapt.index(site.url + "/", name="web", model=model, depth=1, allow_hosts=LOCAL).report

    assert (build().added, build().unchanged) == (3, 3)
    site.pages["/b"] = page("A film about books.")
    del site.pages["/c"]
    report = build()
    assert (report.changed, report.unchanged, report.removed) == (1, 1, 1)
    index = nbadapt.index(name="web")
    assert index.search("books", 1, how="bm25")[0].title == f"{site.url}/b"
    assert list(index.search("bells gone", how="bm25")) == []
    site.pages["/"] = (500, {}, b"")
    assert build().removed == 0  # the site is down, not gone
    assert len(index.store.documents()) == 2


def test_a_page_alone_touches_no_other(site):
    site.pages |= {"/a": page("The film was dull."), "/a/b": page("A film about bells.")}
    model = str(tiny_models.folder("bert"))

    def build(*paths: str, depth: int = 0) -> Any:
        urls = [site.url + path for path in paths]
        return nbadapt.index(urls, name="web", model=model, depth=depth, allow_hosts=LOCAL).report

    assert build("/a", "/a/b").added == 2
    assert (build("/a").unchanged, build("/a").removed) == (1, 0)
    report = build("/a", "/a/b", depth=1)  # what one leads to and the other does not
    assert (report.unchanged, report.added, report.chunks) == (2, 0, 2)
    site.pages["/a"] = (410, {}, b"")
    report = build("/a")
    assert (report.chunks, report.removed) == (1, 1)


def test_nothing_is_read_without_leave(site, tmp_path: Path):
    site.pages["/"] = page("secret")
    report = nbadapt.index(site.url, name="web", model=str(tiny_models.folder("bert"))).report
    assert [reason.split(",")[0] for _, reason in report.unreadable] == ["127.0.0.1 is the address 127.0.0.1"]
    assert site.asked == []

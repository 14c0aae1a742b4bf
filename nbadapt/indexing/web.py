"""Web pages by URL: one page, or those of its host that links lead to, up to a depth and a count.

::

    url ──robots.txt──> fetch ──redirects, each checked──> Document ──links of the same host──> ...

The host's robots.txt is obeyed (RFC 9309). Before a connection is made its address is checked, for each redirect
anew: one that is not public (this machine, the local network) is refused, unless its host was allowed by name.
The very address that was checked is connected to. Proxies are not used.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urldefrag, urljoin, urlsplit
from urllib.robotparser import RobotFileParser

from nbadapt.errors import DataError, first_line
from nbadapt.indexing.documents import Document
from nbadapt.indexing.loaders import decode, html_document

AGENT = "nbadapt"
SECONDS = 20.0  # for one answer
MOST_BYTES = 10_000_000  # of one page
REDIRECTS = 5
LONGEST_DELAY = 10.0  # seconds between two pages that robots.txt may ask for


@dataclass(frozen=True)
class Reach:
    """How far a URL leads.

    Attributes:
        depth: links that are followed from the first page on; 0 takes that page alone.
        pages: most pages.
        allowed: hosts that may have an address that is not public.
    """

    depth: int = 0
    pages: int = 100
    allowed: Collection[str] = ()


def is_url(word: str) -> bool:
    """Whether a word names a web page."""
    return word.lower().startswith(("http://", "https://"))


def site(url: str) -> str:
    """The beginning that all URLs of the same host have."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/"


def crawl(url: str, reach: Reach) -> Iterator[tuple[str, Document | DataError]]:
    """Pages from `url` on, breadth first: each with its URL, and its document or why there is none."""
    waiting = [(urldefrag(url)[0], 0)]
    known = {waiting[0][0]}
    robots: RobotFileParser | None = None
    taken = 0
    while waiting and taken < reach.pages:
        here, depth = waiting.pop(0)
        try:
            robots = robots or _robots(here, reach.allowed)
            if taken:
                time.sleep(min(float(robots.crawl_delay(AGENT) or 0), LONGEST_DELAY))
            page = _permitted(here, robots, reach.allowed)
            document = page.document()
        except DataError as error:
            yield here, error
            continue
        taken += 1
        yield here, document
        for link in page.links() if depth < reach.depth else ():
            if link not in known and site(link) == site(here):
                known.add(link)
                waiting.append((link, depth + 1))


@dataclass(frozen=True)
class _Page:
    """An answer of a server."""

    url: str
    kind: str
    body: bytes
    charset: str

    def document(self) -> Document:
        """Its text.

        Raises:
            DataError: it is no text, or holds none.
        """
        if self.kind not in {"text/html", "application/xhtml+xml", "text/plain", "text/markdown"}:
            raise DataError(f"it is of the kind {self.kind or 'unknown'}, not a page of text")
        text = self._text()
        found = html_document(text) if "html" in self.kind else Document(text, "text")
        if not found.text.strip():
            raise DataError("there is no text in it")
        return found

    def links(self) -> list[str]:
        """What it leads to, as URLs without fragments."""
        if "html" not in self.kind:
            return []
        reader = _Links()
        reader.feed(self._text())
        found = []
        for link in reader.found:
            try:
                target = urldefrag(urljoin(self.url, link))[0]
            except ValueError:  # such as http://[
                continue
            if is_url(target):
                found.append(target)
        return list(dict.fromkeys(found))

    def _text(self) -> str:
        try:
            return self.body.decode(self.charset) if self.charset else decode(self.body)
        except (LookupError, UnicodeDecodeError):  # it is not what it says
            return decode(self.body)


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found += [value for name, value in attrs if name == "href" and value]


def _robots(url: str, allowed: Collection[str]) -> RobotFileParser:
    """The rules of a host: none where it has no such file.

    Raises:
        DataError: they cannot be read, which forbids all.
    """
    rules = RobotFileParser()
    try:
        answer = _fetch(site(url) + "robots.txt", allowed, same_site=False)
    except StatusError as error:
        if error.status >= 500:
            raise DataError(f"the host's robots.txt cannot be read ({error})") from None
        rules.parse([])
        return rules
    rules.parse(answer.body.decode("utf-8", "replace").splitlines())
    return rules


def _permitted(url: str, robots: RobotFileParser, allowed: Collection[str]) -> _Page:
    """The page at a URL, if robots.txt permits it and where it leads."""
    forbidden = DataError("the host's robots.txt forbids it")
    if not robots.can_fetch(AGENT, url):
        raise forbidden
    page = _fetch(url, allowed, same_site=True)
    if not robots.can_fetch(AGENT, page.url):
        raise forbidden
    return page


class StatusError(DataError):
    """The server refused."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"the server says {status} {reason}".rstrip())
        self.status = status

    @property
    def gone(self) -> bool:
        """Whether there is no such page any more."""
        return self.status in {404, 410}


def _fetch(url: str, allowed: Collection[str], *, same_site: bool) -> _Page:
    """The page at a URL, behind its redirects.

    Raises:
        DataError: there is none, in one line.
    """
    first = site(url)
    for _ in range(REDIRECTS + 1):
        status, reason, headers, body = _ask(url, allowed)
        target = headers.get("Location")
        if status in {301, 302, 303, 307, 308} and target:
            url = urldefrag(urljoin(url, target))[0]
            if not is_url(url):
                raise DataError("it leads to what is no web page")
            if same_site and site(url) != first:
                raise DataError(f"it leads to another host, {urlsplit(url).netloc}: give that URL itself")
            continue
        if status != 200:
            raise StatusError(status, reason)
        return _Page(url, headers.get_content_type(), body, headers.get_content_charset() or "")
    raise DataError(f"it leads on more than {REDIRECTS} times")


def _ask(url: str, allowed: Collection[str]) -> tuple[int, str, http.client.HTTPMessage, bytes]:
    """One request: status, reason, headers and body."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise DataError("this is no URL") from None
    secure = parts.scheme == "https"
    connection = (http.client.HTTPSConnection if secure else http.client.HTTPConnection)(host, port, timeout=SECONDS)
    try:
        sock: Any = _connected(host, connection.port, allowed)
        if secure:
            sock = ssl.create_default_context().wrap_socket(sock, server_hostname=host)
        connection.sock = sock
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", path, headers={"User-Agent": AGENT, "Accept": "text/html, text/plain, text/markdown"})
        response = connection.getresponse()
        body = response.read(MOST_BYTES + 1)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DataError(f"{host} does not answer ({first_line(error)})") from None
    finally:
        connection.close()
    if len(body) > MOST_BYTES:
        raise DataError(f"it is longer than {MOST_BYTES:,} bytes")
    return response.status, response.reason, response.headers, body


def _connected(host: str, port: int, allowed: Collection[str]) -> socket.socket:
    """A connection to a checked address of a host.

    Raises:
        DataError: its address is not public, and the host not allowed.
        OSError: it cannot be reached.
    """
    failed: OSError = OSError("no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        if host not in allowed and not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_global:
            raise DataError(
                f"{host} is the address {address[0]}, which is not public: allow it with --allow-host {host}"
            )
        sock = socket.socket(family, kind, protocol)
        sock.settimeout(SECONDS)
        try:
            sock.connect(address)
        except OSError as error:
            sock.close()
            failed = error
            continue
        return sock
    raise failed

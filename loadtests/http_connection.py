"""Decides how one HTTP/1.1 connection of the open-loop client sends and is answered.

Non-blocking, one request at a time, no event loop: the caller polls. It must never wait, and
never retry: a request has one outcome.
"""

import socket

import httptools

from loadtests.replies import Outcome, Reply

_BY_STATUS: dict[int, Outcome] = {200: "answered", 503: "refused", 504: "expired"}
_READ_BYTES = 65536


class HttpConnection:
    """Implements `replies.Connection` for a fixed POST."""

    def __init__(self, address: tuple[str, int], path: str, body: bytes) -> None:
        host, port = address
        head = (
            f"POST {path} HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        self._request = head.encode() + body
        self._socket = socket.create_connection(address, timeout=10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)
        self._parser = httptools.HttpResponseParser(self)
        self._token: int | None = None
        self._body: list[bytes] = []
        self._done: list[Reply] = []
        self._unsent = b""
        self._broken = False

    def fileno(self) -> int:
        """For the poller."""
        return self._socket.fileno()

    @property
    def has_room(self) -> bool:
        """Free for a request; pipelining would queue one reply behind another."""
        return self._token is None and not self._broken

    @property
    def broken(self) -> bool:
        """The server closed it, or the socket failed."""
        return self._broken

    def send(self, token: int) -> None:
        """Writes the request; what the socket does not take is kept for `flush`."""
        self._token = token
        self._unsent = self._request
        self.flush()

    def flush(self) -> None:
        """Writes what is left over."""
        if self._unsent:
            try:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
            except BlockingIOError:
                return
            except OSError as problem:
                self._break(str(problem))

    def receive(self) -> list[Reply]:
        """Reads what is there and returns the replies that it completed."""
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            data = None
        except OSError:
            data = b""
        if data:
            self._parser.feed_data(data)
        elif data is not None:
            self._break("the server closed the connection")
        done, self._done = self._done, []
        return done

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Called by the parser: the one outstanding request has its outcome."""
        status, body = self._parser.get_status_code(), b"".join(self._body)
        self._body = []
        self._parser = httptools.HttpResponseParser(self)
        if self._token is not None:
            outcome = _BY_STATUS.get(status, "failed")
            self._done.append(Reply(self._token, outcome, f"HTTP {status}", body))
        self._token = None

    def _break(self, why: str) -> None:
        """A broken connection fails its request and takes no more."""
        if self._token is not None:
            self._done.append(Reply(self._token, "failed", why, b""))
        self._token, self._unsent, self._broken = None, b"", True

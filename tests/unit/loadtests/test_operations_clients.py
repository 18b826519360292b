"""The clients of the operations bench: what they say on the wire, and what they notice."""

from __future__ import annotations

import socket
import threading

from hpack import Decoder

from loadtests.operations_client import Caller
from loadtests.operations_stream_client import Frames, frame, header_block
from loadtests.protobuf_payload import STREAM_PATH

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
CALLS = 20


class MoodyServer:
    """Answers some calls of its first connection, takes one more and hangs up; then it answers all."""

    def __init__(self, answers_first: int) -> None:
        self._left = answers_first
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self._thread = threading.Thread(target=self._accept)
        self._others: list[threading.Thread] = []
        self._thread.start()

    def _accept(self) -> None:
        first = True
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            serving = threading.Thread(target=self._serve, args=(connection, first))
            first = False
            self._others.append(serving)
            serving.start()

    def _serve(self, connection: socket.socket, is_first: bool) -> None:
        with connection:
            while connection.recv(1 << 20):
                if is_first and not self._left:
                    return
                self._left -= is_first
                connection.sendall(ANSWER)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in (self._thread, *self._others):
            thread.join(10)


def test_a_call_on_a_broken_connection_fails_once_and_the_next_one_finds_another() -> None:
    server = MoodyServer(answers_first=5)
    try:
        seen = Caller("http", server.address, "m", kept=1, fresh_every=0).run(
            [at / 1000 for at in range(CALLS)]
        )
    finally:
        server.close()
    assert seen.outcome == ["answered"] * 5 + ["failed"] + ["answered"] * (CALLS - 6)
    assert seen.line == [0] * 6 + [1] * (CALLS - 6)
    broken, whole = seen.lines
    assert broken.broke_s is not None
    assert whole.broke_s is None
    assert seen.sent_s[5] <= broken.broke_s <= seen.sent_s[6]
    assert broken.port != whole.port


def test_some_calls_go_over_lines_of_their_own() -> None:
    server = MoodyServer(answers_first=CALLS)
    try:
        seen = Caller("http", server.address, "m", kept=1, fresh_every=5).run(
            [at / 1000 for at in range(CALLS)]
        )
    finally:
        server.close()
    assert seen.outcome == ["answered"] * CALLS
    assert [one.lasts for one in seen.lines] == [True, False, False, False, False]
    assert [seen.line[at] for at in (0, 1, 5, 10, 15)] == [1, 0, 2, 3, 4]


def test_what_is_not_due_any_more_is_forgotten() -> None:
    server = MoodyServer(answers_first=CALLS)
    try:
        caller = Caller("http", server.address, "m", kept=1, fresh_every=0)
        caller.stop()
        seen = caller.run([at * 1000.0 for at in range(1, CALLS)])
    finally:
        server.close()
    assert seen.due_s == seen.outcome == seen.detail == []


def test_the_stream_is_opened_as_http2_wants_it() -> None:
    fields = dict(Decoder().decode(header_block(("127.0.0.1", 8001))))
    assert fields[":path"] == STREAM_PATH
    assert fields[":authority"] == "127.0.0.1:8001"
    assert fields["content-type"] == "application/grpc"


def test_frames_are_cut_wherever_the_bytes_were_torn() -> None:
    sent = [(0, 1, 1, b"body"), (8, 0, 0, b"\0\0\1\0"), (0, 0, 3, b"")]
    data = b"".join(frame(kind, flags, stream, body) for kind, flags, stream, body in sent)
    for at in range(len(data)):
        frames = Frames()
        assert frames.cut(data[:at]) + frames.cut(data[at:]) == sent

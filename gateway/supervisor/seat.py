"""One worker's seat: the sockets stay, processes come and go.

Starts a worker, boots it over the control socket, and says when it has died. It must never decide whether to start it
again: that is the supervisor's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
import time
from typing import Any

from gateway.supervisor.channel import Channel, ChannelClosedError, Handler
from gateway.supervisor.merge import Family
from gateway.supervisor.restarts import Restarts

logger = logging.getLogger("headrace.supervisor")

LOAD_TIMEOUT_S = 3600.0
OPEN_TIMEOUT_S = 60.0
END_MARGIN_S = 10.0
"""Beyond the drain's own limit, before a worker that does not end is killed."""
ACCEPT_AT_ONCE = 256
"""Connections of a dead worker that are handed on in one turn of the loop."""
HANDED_ON_BYTES = 1

Listeners = dict[str, socket.socket]
"""By protocol: "http" and "grpc"."""


class Seat:
    """A place for one worker."""

    def __init__(self, index: int, listeners: Listeners, handler: Handler) -> None:
        self.index = index
        self.listeners = listeners
        self.restarts = Restarts()
        self.process: asyncio.subprocess.Process | None = None
        self.channel: Channel | None = None
        self.serving = False
        self.leaving = False
        """It has closed its ports by itself: what waits there is for the others."""
        self.complaint = ""
        """Why the present process cannot serve."""
        self.ready_s = 0.0
        self.families: list[Family] = []
        """The latest metrics of the present process."""
        self._handler = handler
        self._hand: socket.socket | None = None

    @property
    def pid(self) -> int | None:
        """Of the present process."""
        return None if self.process is None else self.process.pid

    # -- a life -----------------------------------------------------------------------------------

    async def start(self) -> asyncio.Task[None]:
        """A new process with a control socket; the task ends when the process has let go of it."""
        control, their_control = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        hand, their_hand = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.complaint = ""
        passed = [their_control, their_hand, *self.listeners.values()]
        try:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # not what lies in the folder that we were started in
                "-m",
                "gateway.worker",
                str(their_control.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=[one.fileno() for one in passed],
                start_new_session=True,  # Ctrl-C at the terminal is the supervisor's to pass on
            )
            self._their_hand_fd = their_hand.fileno()
        except BaseException:
            control.close()
            hand.close()
            raise
        finally:
            their_control.close()
            their_hand.close()
        hand.setblocking(False)
        self._hand = hand
        self.channel = channel = Channel(control, self._handler)
        await channel.open()
        return asyncio.create_task(self._listen(channel, self.process))

    async def _listen(self, channel: Channel, process: asyncio.subprocess.Process) -> None:
        await channel.run()
        await asyncio.sleep(END_MARGIN_S)  # its end is near, and ends this
        logger.error("worker %d has hung up and does not end: it is killed", self.index)
        with contextlib.suppress(ProcessLookupError):
            process.kill()

    async def load(self, boot: dict[str, Any]) -> Any:
        """Have the models loaded; what the worker says about them. Its own error is raised."""
        return await self.ask(
            "load",
            {
                **boot,
                "seat": self.index,
                "hand": self._their_hand_fd,
                "listeners": {name: one.fileno() for name, one in self.listeners.items()},
            },
            timeout_s=LOAD_TIMEOUT_S,
        )

    async def open(self) -> Any:
        """Have the ports opened; where they are."""
        addresses = await self.ask("open", timeout_s=OPEN_TIMEOUT_S)
        self.serving = True
        self.ready_s = time.monotonic()
        return addresses

    async def ask(self, method: str, value: Any = None, *, timeout_s: float) -> Any:
        """A control call to the present process."""
        if self.channel is None:
            raise ChannelClosedError
        return await self.channel.call(method, value, timeout_s=timeout_s)

    def tell(self, method: str, value: Any = None) -> None:
        """A control call that needs no answer."""
        if self.channel is not None:
            self.channel.tell(method, value)

    def ended(self) -> float:
        """The process is gone; for how many seconds it had served."""
        lived_s = time.monotonic() - self.ready_s if self.serving else 0.0
        self.serving = self.leaving = False
        self.families = []
        if self.channel is not None:
            self.channel.close()
        if self._hand is not None:
            self._hand.close()
        self.channel = self._hand = self.process = None
        return lived_s

    def kill(self) -> None:
        """SIGKILL, if there is a process."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()

    def close_listeners(self) -> None:
        """Let go of the ports: whoever still waits there is reset."""
        for one in self.listeners.values():
            one.close()

    # -- connections that nobody takes ------------------------------------------------------------

    def take(self, protocol: str, accepted: socket.socket) -> bool:
        """Hand an accepted connection to this worker; False when it cannot take it now."""
        if self._hand is None or not self.serving:
            return False
        try:
            socket.send_fds(self._hand, [protocol[:HANDED_ON_BYTES].encode()], [accepted.fileno()])
        except OSError:
            return False
        return True

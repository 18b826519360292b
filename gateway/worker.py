"""One worker of several: serves the data ports with sockets that the supervisor made, and does what it is told.

Started by the supervisor with the number of the control socket as its only argument. It ends by draining: when it is
told to, on SIGTERM, and when the supervisor has gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from functools import partial
from typing import Any

import msgspec
import uvloop

from gateway.app import Gateway
from gateway.errors import ErrorCode, HeadraceError
from gateway.one_process import (
    WHAT_STOPS_A_START,
    LoadingStopped,
    calm_garbage_collection,
    end_now,
    reporter,
    share_the_interpreter,
    untried,
)
from gateway.settings import GatewaySettings
from gateway.supervisor.channel import Channel, ChannelClosedError
from gateway.supervisor.merge import families_of
from gateway.supervisor.remote_control import RemoteControl
from gateway.telemetry.logs import configure
from gateway.terminal import STOPPED_WHILE_LOADING, WRONG_START

logger = logging.getLogger("headrace.worker")

LAST_WORDS_S = 0.2
"""From a failed load to the end of the process, unless the supervisor ends it before."""


class Worker:
    """The worker's side of the control socket."""

    def __init__(self, control: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._channel = Channel(control, self._handle)
        self._stop, self._force = asyncio.Event(), asyncio.Event()
        self._told_to_stop = False
        self._hands_over = False
        """Who waits at the ports when they close is left to the others."""
        self._gateway: Gateway | None = None
        self._is_open = False
        self._is_loading = False
        self._exit_code = 0
        self._hand: socket.socket | None = None
        self._arrivals: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """Serve until told to stop; the exit code."""
        self._loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        self._loop.add_signal_handler(signal.SIGINT, self._stop.set)
        await self._channel.open()
        listening = asyncio.create_task(self._listen())
        await self._stop.wait()
        if self._is_open:
            await self._drain()
        elif self._is_loading:
            end_now(self._exit_code)
        listening.cancel()
        return self._exit_code

    async def _listen(self) -> None:
        await self._channel.run()
        if not self._stop.is_set():
            logger.error("the supervisor has gone; draining")
        self._stop.set()

    async def _drain(self) -> None:
        gateway = self._gateway
        assert gateway is not None
        clean = await gateway.stop(
            force=self._force,
            hand_over=self._decide_who_takes_the_rest,
            on_closed=self._ports_closed,
        )
        assert self._hand is not None
        self._loop.remove_reader(self._hand.fileno())
        self._channel.tell("metrics", families_of(gateway.registry))
        with contextlib.suppress(ChannelClosedError, TimeoutError, HeadraceError):
            await self._channel.call("stopped", clean, timeout_s=1.0)
        if not gateway.idle:
            end_now(0)

    def _decide_who_takes_the_rest(self) -> bool:
        self._hands_over = not self._told_to_stop and self._channel.is_open
        return self._hands_over

    def _ports_closed(self) -> None:
        # What is handed to us is taken even now: the supervisor cannot know before it reads this, and when it is
        # ending itself there may be nobody else.
        self._channel.tell("leaving" if self._hands_over else "closed")

    # -- what the supervisor asks -----------------------------------------------------------------

    async def _handle(self, method: str, value: Any) -> Any:
        if method == "load":
            return await self._load(value)
        if method == "stop":
            self._told_to_stop = True
            self._stop.set()
            return None
        if method == "force":
            self._force.set()
            return None
        gateway = self._gateway
        if gateway is None:
            raise HeadraceError(ErrorCode.NOT_READY, "the worker is loading")
        if method == "open":
            await gateway.open()
            self._is_open = True
            self._receive_connections()
            calm_garbage_collection()
            share_the_interpreter()
            return gateway.addresses
        if method == "metrics":
            return families_of(gateway.registry)
        if method == "snapshot":
            return gateway.snapshot()
        if method == "ready":
            return gateway.info.ready()
        if method == "features":
            return await gateway.looking.features()
        if method == "look_up":
            return await gateway.looking.look_up(*value)
        return await self._repository(gateway, method, value)

    async def _repository(self, gateway: Gateway, method: str, value: Any) -> Any:
        repository = gateway.local_control
        if method == "index":
            return await repository.index()
        if method == "statistics":
            return await repository.statistics(*value)
        if method == "prepare_load":
            return await repository.prepare_load(value)
        if method == "prepare_refresh":
            return await repository.prepare_refresh()
        if method == "commit":
            return repository.commit()
        if method == "abort":
            return repository.abort()
        if method == "unload":
            return await repository.drop(value)
        if method == "catch_up":
            return await repository.catch_up(value)
        raise HeadraceError(ErrorCode.UNIMPLEMENTED, f"no such control call: {method}")

    async def _load(self, boot: dict[str, Any]) -> None:
        settings = msgspec.convert(boot["settings"], GatewaySettings)
        configure(settings.telemetry.log_level, settings.telemetry.log_format, worker=boot["seat"])
        gateway = Gateway(
            settings,
            boot["version"],
            listeners={
                name: socket.socket(fileno=number) for name, number in boot["listeners"].items()
            },
            control=RemoteControl(self._channel),
        )
        self._hand = socket.socket(fileno=boot["hand"])
        say = partial(self._channel.tell, "say")
        self._is_loading = True
        try:
            repository = await gateway.load(reporter(self._stop, say), serve=boot["serve"])
        except LoadingStopped:
            raise HeadraceError(ErrorCode.NOT_READY, STOPPED_WHILE_LOADING) from None
        except WHAT_STOPS_A_START as error:
            self._exit_code = WRONG_START
            self._loop.call_later(
                LAST_WORDS_S, self._stop.set
            )  # the supervisor says why, once it has read it
            raise HeadraceError(ErrorCode.INVALID_ARGUMENT, str(error)) from None
        finally:
            self._is_loading = False
        for line in untried(repository):
            say(line)
        gateway.build()
        self._gateway = gateway

    # -- connections of others --------------------------------------------------------------------

    def _receive_connections(self) -> None:
        assert self._hand is not None
        self._hand.setblocking(False)
        self._loop.add_reader(self._hand.fileno(), self._take)

    def _take(self) -> None:
        assert self._hand is not None
        assert self._gateway is not None
        try:
            kind, numbers, _, _ = socket.recv_fds(self._hand, 1, 1)
        except OSError:
            return
        if not kind:
            self._loop.remove_reader(self._hand.fileno())
            return
        for number in numbers:
            protocol = "http" if kind == b"h" else "grpc"
            accepted = socket.socket(fileno=number)
            arrival = asyncio.create_task(self._gateway.adopt(protocol, accepted))
            self._arrivals.add(arrival)
            arrival.add_done_callback(self._arrivals.discard)


async def _main(control_fd: int) -> int:
    return await Worker(socket.socket(fileno=control_fd)).run()


def main() -> None:
    """The process."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        code = runner.run(_main(int(sys.argv[1])))
    raise SystemExit(code)


if __name__ == "__main__":
    main()

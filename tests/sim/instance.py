"""Several workers behind the gateway's own supervisor, with seats, sockets and deaths of the simulator's making.

Decides what the kernel decides: which listening socket a new connection lands on, and what becomes of it when its
worker dies. Restarts, catching up, connections of the dead and the one voice of all workers are the gateway's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any, cast

from gateway.errors import HeadraceError
from gateway.supervisor.channel import Channel, ChannelClosedError, Handler
from gateway.supervisor.seat import Seat
from gateway.supervisor.supervisor import Supervisor
from tests.sim.asyncio_view import AsyncioView
from tests.sim.metrics_check import NeverBackwards
from tests.sim.process import Process, World
from tests.sim.virtual_loop import ProcessLoop

if TYPE_CHECKING:
    import socket

    from tests.sim.crowd import Crowd

CONTROL_S = 1e-4
"""From one process to the other, over the control socket."""
START_S = 0.2
"""What a process takes before it can be told to load."""
PATIENCE_TURNS = 40
"""A connection that waits for longer, while somebody serves, has been forgotten."""


class Line:
    """A connection, from a caller's first wish for one."""

    def __init__(self, turn: int) -> None:
        self.process: Process | None = None
        self.waiting: list[Callable[[Process | None], None]] = []
        self.since_turn = turn

    def lead_to(self, process: Process | None) -> None:
        """It was accepted; None: it was refused."""
        self.process = process
        waiting, self.waiting = self.waiting, []
        for then in waiting:
            then(process)

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *exception: object) -> None:
        """The one who handed it on lets go of it: it is cut where nobody was there to take it."""
        if self.process is None:
            self.lead_to(None)


class Listener:
    """A listening socket, with what waits in the kernel."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.waiting: list[Line] = []
        self.closed = False

    def fileno(self) -> int:
        return -1 if self.closed else self.number

    def setsockopt(self, *filtered: object) -> None:
        """Newcomers are dropped at the door: nobody comes before the port closes, within the same turn."""

    def accept(self) -> tuple[Line, None]:
        if not self.waiting:
            raise BlockingIOError
        return self.waiting.pop(0), None

    def close(self) -> None:
        self.closed = True
        lines, self.waiting = self.waiting, []
        for line in lines:
            line.lead_to(None)


class VirtualChannel:
    """The supervisor's end of the control socket."""

    def __init__(self, process: Process, view: AsyncioView) -> None:
        self._process = process
        self._view = view
        self._waiting: set[asyncio.Future[Any]] = set()
        self._open = True

    async def call(self, method: str, value: Any = None, *, timeout_s: float) -> Any:
        if not self._open:
            raise ChannelClosedError
        answer = self._view.create_future()
        self._waiting.add(answer)
        self._view.call_later(CONTROL_S, self._ask, method, value, answer)
        try:
            return await asyncio.wait_for(answer, timeout_s)
        finally:
            self._waiting.discard(answer)

    def tell(self, method: str, value: Any = None) -> None:
        if self._open:
            self._view.call_later(CONTROL_S, self._ask, method, value, None)

    def _ask(self, method: str, value: Any, answer: asyncio.Future[Any] | None) -> None:
        if self._process.alive:
            self._process.view.start(self._answer(method, value, answer))

    async def _answer(self, method: str, value: Any, answer: asyncio.Future[Any] | None) -> None:
        error: HeadraceError | None = None
        result = None
        if method == "stop":
            self._process.drain()
        elif method != "open":
            try:
                result = await self._process.answer(method, value)
            except HeadraceError as raised:
                error = HeadraceError(raised.code, raised.message)  # what a socket would carry
        self._view.call_later(CONTROL_S, self._report, answer, result, error)

    def _report(
        self, answer: asyncio.Future[Any] | None, result: Any, error: HeadraceError | None
    ) -> None:
        if answer is None or answer.done():
            return
        if error is None:
            answer.set_result(result)
        else:
            answer.set_exception(error)

    def close(self) -> None:
        self._open = False
        for answer in self._waiting:
            if not answer.done():
                answer.set_exception(ChannelClosedError())


class ProcessHandle:
    """A child process, as asyncio shows it."""

    def __init__(self, process: Process, view: AsyncioView, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._process = process
        self._exit = view.create_future()

    def exited(self, code: int) -> None:
        self.returncode = code
        self._exit.set_result(code)

    async def wait(self) -> int:
        return int(await asyncio.shield(self._exit))

    def kill(self) -> None:
        self._process.die()

    terminate = kill


class VirtualSeat(Seat):
    """A seat whose processes are simulated."""

    def __init__(self, instance: Instance, index: int, listener: Listener, hear: Handler) -> None:
        super().__init__(index, {"http": cast("socket.socket", listener)}, hear)
        self.listener = listener
        self.present: Process | None = None
        self.is_open = False
        self._instance = instance

    @property
    def takes(self) -> bool:
        """Its process accepts connections."""
        return self.is_open and self.present is not None and self.present.alive

    async def start(self) -> asyncio.Task[None]:
        instance = self._instance
        self.present = process = Process(
            instance.world, f"worker {self.index}.{self.restarts.count}"
        )
        self.is_open = False
        channel = VirtualChannel(process, instance.view)
        handle = ProcessHandle(process, instance.view, len(instance.world.processes))

        def on_end(code: int) -> None:
            self.is_open = False
            channel.close()
            handle.exited(code)

        process.on_end = on_end
        self.process = cast("asyncio.subprocess.Process", handle)
        self.channel = cast("Channel", channel)
        await asyncio.sleep(START_S)
        return asyncio.create_task(asyncio.sleep(0.0))

    async def load(self, boot: dict[str, Any]) -> Any:
        return await self.ask("load", boot, timeout_s=3600.0)

    async def open(self) -> Any:
        await self.ask("open", timeout_s=60.0)
        self.serving = True
        process = self.present
        assert process is not None
        process.roster.is_served = True
        self.is_open = process.alive
        self.ready_s = self._instance.world.loop.now_s
        self._instance.world.history.note(self.ready_s, "opens", process.name)
        self._instance.opened(self)
        return {}

    def ended(self) -> float:
        lived_s = self._instance.world.loop.now_s - self.ready_s if self.serving else 0.0
        super().ended()
        return lived_s

    def take(self, protocol: str, accepted: Any) -> bool:
        if not self.serving or not self.takes:
            return False
        line: Line = accepted
        line.lead_to(self.present)
        return True


class Instance:
    """Supervisor, seats and the connections of all callers."""

    def __init__(self, world: World, workers: int) -> None:
        self.world = world
        self.view = AsyncioView(ProcessLoop(world.loop), world.wrong)  # type: ignore[abstract]
        self.view.on_watch = self._poke
        self.seats: list[VirtualSeat] = []
        self.supervisor: Supervisor
        self.is_up = False
        self.on_open: Callable[[], None] = lambda: None
        self.counters = NeverBackwards()
        self._dice = Random(f"{world.day.seed} kernel")
        self._lines: dict[tuple[int, int], Line] = {}
        self._workers = workers
        self._alone_turn = 0
        self.view.start(self._start())

    async def _start(self) -> None:
        """Fill the seats; nobody calls before all of them serve."""
        listeners = [Listener(number + 10) for number in range(self._workers)]
        self.supervisor = supervisor = Supervisor(
            self.world.settings, "sim", [{} for _ in listeners], lambda line: None
        )
        self.seats = [
            VirtualSeat(self, index, listener, supervisor._handler(index))
            for index, listener in enumerate(listeners)
        ]
        supervisor.seats[:] = self.seats
        await supervisor.start()
        self.is_up = True

    # -- connections ------------------------------------------------------------------------------

    def reach(self, crowd: Crowd, connection: int, then: Callable[[Process | None], None]) -> None:
        """Lead a call over its connection, a new one where there is none."""
        key = (id(crowd), connection)
        line = self._lines.get(key)
        if line is None or (not line.waiting and not (line.process and line.process.alive)):
            line = self._lines[key] = Line(self.world.loop.turn)
            seat = self._dice.choice(self.seats)
            if seat.takes:
                line.process = seat.present
            elif not seat.listener.closed:
                line.waiting.append(then)
                seat.listener.waiting.append(line)
                self._poke(seat.listener.number)
                return
        if line.waiting:
            line.waiting.append(then)
        else:
            then(line.process)

    def refused(self, number: int) -> None:
        if self.serving() and not self.world.over:
            self.world.wrong(f"call {number} got no connection although somebody serves")

    def _poke(self, fileno: int) -> None:
        """Somebody watches a socket or waits at it: tell the one, as long as there is the other."""
        listener = next(one.listener for one in self.seats if one.listener.number == fileno)

        def tell() -> None:
            if listener.waiting and self.view.is_watched(fileno):
                self.view.read(fileno)
                self._poke(fileno)

        if listener.waiting and self.view.is_watched(fileno):
            self.world.loop.call_soon(tell)

    def opened(self, seat: VirtualSeat) -> None:
        """A worker accepts what waits at its own socket."""
        lines, seat.listener.waiting = seat.listener.waiting, []
        for line in lines:
            line.lead_to(seat.present)
        self.on_open()

    # -- moments ----------------------------------------------------------------------------------

    def serving(self) -> list[Process]:
        """The processes that take calls."""
        return [one.present for one in self.seats if one.takes and one.present is not None]

    def kill(self, index: int) -> None:
        """A worker dies, whatever it is doing."""
        process = self.seats[index].present
        if process is not None and process.alive:
            process.die()

    async def act(self, call: str, model: str) -> None:
        """A control call to the whole instance."""
        spokesman = self.supervisor.spokesman
        await (spokesman.load(model) if call == "load" else spokesman.unload(model))

    async def scrape(self) -> None:
        """What Prometheus reads must never fall."""
        collector = await self.supervisor.spokesman.metrics()
        families = cast("Any", collector)._families
        problem = self.counters.problem(families)
        if problem:
            self.world.wrong(f"metrics of all workers: {problem}")

    async def stop(self) -> None:
        """Every worker drains and ends."""
        if not await self.supervisor.stop(asyncio.Event()):
            self.world.wrong("the workers did not end in time")

    def check_turn(self) -> None:
        """Nobody waits for a connection beside a worker that serves."""
        turn = self.world.loop.turn
        if self.world.over:
            return  # who waits now is refused when the last worker has gone
        for seat in self.seats:
            for line in seat.listener.waiting[:1]:
                if turn - line.since_turn > PATIENCE_TURNS and self._settled_turns(turn):
                    self.world.wrong(f"a connection waits at seat {seat.index}, and others serve")

    def _settled_turns(self, turn: int) -> bool:
        """Whether somebody has been serving for long enough."""
        if not self.serving():
            self._alone_turn = turn
            return False
        return turn - self._alone_turn > PATIENCE_TURNS

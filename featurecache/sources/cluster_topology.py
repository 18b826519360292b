"""The nodes of a cluster and who owns which slot, kept up to date.

Decides when to ask for the table of slots again: in regular intervals, and sooner after a lost node or a redirection,
though never in a rush. It must never keep the connection of a node that left the table, nor forget the seeds: they are
the way back when every node that was known is gone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence

import msgspec

from featurecache.errors import SourceError
from featurecache.sources.cluster_slots import SLOTS, slot_owners
from featurecache.sources.dialing import Address, Login, dial
from featurecache.sources.node_link import NodeLink, always
from featurecache.sources.ports import Invalidated
from featurecache.sources.resp import ReplyError
from featurecache.sources.source_limits import SourceLimits

logger = logging.getLogger("headrace.features")

MAX_NODES = 1000


class Topology:
    """``owner[slot]`` is the link to the slot's master, None where the cluster has none."""

    def __init__(
        self,
        seeds: Sequence[Address],
        login: Login,
        limits: SourceLimits,
        name: str,
        random_unit: Callable[[], float],
        on_changed: Invalidated,
    ) -> None:
        self.owner: list[NodeLink | None] = [None] * SLOTS
        self._table: list[Address | None] = []
        """As it was told; ``owner`` may know better since, from redirections."""
        self._seeds = list(seeds)
        self._login = msgspec.structs.replace(login, mode="cluster", database=0)
        self._limits = limits
        self._name = name
        self._random_unit = random_unit
        self._on_changed = on_changed
        self._links: dict[Address, NodeLink] = {}
        self._addresses: dict[NodeLink, Address] = {}
        self._why_down = f"{name}: not started"
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._jobs: set[asyncio.Task[None]] = set()
        self._closed = False
        self._told_down = False

    # -- state ------------------------------------------------------------------------------------

    @property
    def is_up(self) -> bool:
        """Whether any node would be asked now."""
        return not self._closed and any(link.is_up for link in self._links.values())

    @property
    def tracks(self) -> bool:
        """Whether all nodes tell which tracked keys change."""
        return self.is_up and all(link.tracks for link in self._links.values())

    def address_of(self, link: NodeLink) -> Address:
        """Where a node is; of a node that left the cluster, an empty address."""
        return self._addresses.get(link, Address())

    def why_down(self, link: NodeLink | None, slot: int) -> str:
        """A sentence about an owner that cannot be asked."""
        if link is not None:
            return f"{link.name}: not connected, and it has slot {slot}"
        if self.is_up:
            return f"{self._name}: no node has slot {slot}"
        return self._why_down

    # -- life -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin; returns after the table was asked for once and each of its nodes was tried."""
        if self._task is None and not self._closed:
            tried = asyncio.Event()
            self._task = asyncio.create_task(self._keep_up(tried), name=f"nodes of {self._name}")
            await tried.wait()

    def stop_asking(self) -> None:
        """From now on no slot has an owner."""
        self._closed = True
        self._why_down = f"{self._name}: closed"
        self.owner = [None] * SLOTS

    async def close(self) -> None:
        """Let go of every node."""
        self.stop_asking()
        jobs = [job for job in (self._task, *self._jobs) if job is not None]
        self._task = None
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        for link in list(self._links.values()):
            await link.close()
        self._links.clear()
        self._addresses.clear()

    def refresh_soon(self) -> None:
        """Something is not as the table says."""
        self._wanted.set()

    def link_to(self, address: Address) -> NodeLink:
        """The link to a node; a new one begins to connect."""
        link = self._links.get(address)
        if link is None:
            link = NodeLink(
                always(address), self._login, self._limits, str(address), self._random_unit
            )
            link.on_invalidated = self._on_changed
            link.on_change = lambda: None if link.is_up else self.refresh_soon()
            self._links[address] = link
            self._addresses[link] = address
            if not self._closed:
                self._run(link.start())
        return link

    # -- the table --------------------------------------------------------------------------------

    async def _keep_up(self, tried: asyncio.Event) -> None:
        limits = self._limits
        pause_s = limits.backoff_min_s
        while True:
            self._wanted.clear()
            try:
                self._apply(await self._ask())
                if self._jobs:
                    await asyncio.wait(self._jobs)
                if not self._wanted.is_set():
                    pause_s = limits.backoff_min_s
            except SourceError as error:
                self._why_down = str(error)
                self._wanted.set()
                if not self._told_down:
                    self._told_down = True
                    logger.warning("%s", error)
            tried.set()
            await asyncio.sleep(pause_s * (1 - self._random_unit() / 2))
            pause_s = min(pause_s * 2, limits.backoff_max_s)
            try:
                async with asyncio.timeout(limits.topology_refresh_s):
                    await self._wanted.wait()
            except TimeoutError:
                pass

    async def _ask(self) -> list[Address | None]:
        """The table, from the first node that gives one: those known, then the seeds."""
        known = [address for address, link in self._links.items() if link.is_up]
        said: list[str] = []
        for address in dict.fromkeys([*known, *self._seeds]):
            try:
                return await self._ask_one(address)
            except SourceError as error:
                said.append(str(error))
        raise SourceError(f"{self._name}: no node tells who has which slot: " + "; ".join(said))

    async def _ask_one(self, address: Address) -> list[Address | None]:
        session = await dial(
            address,
            msgspec.structs.replace(self._login, track=False),
            self._limits,
            str(address),
            on_push=lambda _frame: None,
            on_lost=lambda _error: None,
        )
        try:
            reply = await session.connection.ask(b"CLUSTER", b"SLOTS")
        finally:
            session.connection.abort(SourceError(f"{address}: asked"))
        if isinstance(reply, ReplyError):
            raise SourceError(f"{address}: the server refused to tell its slots: {reply}")
        owners = slot_owners(reply, address)
        if not any(owners):
            raise SourceError(f"{address}: the cluster has given no slot to any node")
        return owners

    def _apply(self, owners: list[Address | None]) -> None:
        masters = {address for address in owners if address is not None}
        if len(masters) > MAX_NODES:
            raise SourceError(f"{self._name}: more than {MAX_NODES} nodes")
        before, self._table = self._table, owners
        links = {address: self.link_to(address) for address in masters}
        self.owner = [links[address] if address is not None else None for address in owners]
        for address in [address for address in self._links if address not in masters]:
            link = self._links.pop(address)
            del self._addresses[link]
            self._run(link.close())
        if None in owners:  # a cluster that is being built or mended
            self._wanted.set()
        if any(before) and before != owners:
            logger.info("%s: slots have moved", self._name)
            self._on_changed(None)  # what an old owner was asked to watch, it may watch no more
        if self._told_down:
            logger.warning("%s is back", self._name)
        self._told_down = False

    def _run(self, job: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(job)
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)

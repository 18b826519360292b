"""Rows from a cluster: one ``MGET`` per slot, all of a node in one write, all nodes at once.

Decides which node is asked for which keys, and follows the cluster where it moves slots. A fetch succeeds as a whole or
fails as a whole. One redirection is followed, within the read timeout of the fetch. It must never tell of a change for
the last time before the answer of a fetch that began earlier was given: copies made of that answer would stay.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from functools import partial

from featurecache.errors import SourceError
from featurecache.sources.cluster_slots import Redirect, redirect_of, slot_of
from featurecache.sources.cluster_topology import Topology
from featurecache.sources.dialing import Address, Login
from featurecache.sources.node_link import NodeLink
from featurecache.sources.ports import FetchDone, Invalidated
from featurecache.sources.redis_source import refusal_of
from featurecache.sources.resp import CACHING_YES, Replies, ReplyError, pack, pack_mget
from featurecache.sources.source_limits import MAX_KEYS_OF_A_FETCH, SourceLimits

ASKING = pack(b"ASKING")


class _Gather:
    """A fetch over several nodes."""

    __slots__ = ("changed", "done", "keys", "parts", "timer", "track", "values")

    def __init__(self, keys: Sequence[bytes], done: FetchDone, track: bool) -> None:
        self.keys = keys
        self.done: FetchDone | None = done  # None: settled
        self.track = track
        self.values: list[bytes | None] = [None] * len(keys)
        self.parts = 0
        self.timer: asyncio.TimerHandle | None = None
        self.changed: list[bytes] | None = []  # told meanwhile; None: any key


class _Part:
    """The keys of a gather that one node is asked for, slot by slot."""

    __slots__ = ("gather", "link", "redirected", "slots", "stride")

    def __init__(
        self, gather: _Gather, link: NodeLink, slots: Sequence[list[int]], redirected: bool
    ) -> None:
        self.gather = gather
        self.link = link
        self.slots = slots  # places in gather.keys
        self.redirected = redirected
        self.stride = 1


class ClusterSource:
    """Fills ``RowSource`` over a connection to every master."""

    def __init__(
        self,
        seeds: Sequence[Address],
        login: Login,
        limits: SourceLimits,
        *,
        name: str = "",
        random_unit: Callable[[], float] = random.random,
    ) -> None:
        self._name = name or "cluster " + ",".join(map(str, seeds))
        self._limits = limits
        self.on_invalidated: Invalidated | None = None
        self._gathers: set[_Gather] = set()
        self._topology = Topology(seeds, login, limits, self._name, random_unit, self._on_changed)

    @property
    def tracks(self) -> bool:
        """Whether every node tells now which tracked keys change."""
        return self._topology.tracks

    @property
    def is_up(self) -> bool:
        """Whether some node would be asked now."""
        return self._topology.is_up

    @property
    def name(self) -> str:
        """The seeds, without passwords."""
        return self._name

    async def start(self) -> None:
        """Begin to find the nodes and connect; returns after the first try."""
        await self._topology.start()

    async def close(self) -> None:
        """Let go of every connection; fetches still waiting get their error."""
        self._topology.stop_asking()
        for gather in list(self._gathers):
            self._settle(gather, SourceError(f"{self._name}: closed"))
        await self._topology.close()

    def fetch(self, keys: Sequence[bytes], done: FetchDone, *, track: bool) -> None:
        """See ``RowSource``; needs the nodes of all the keys."""
        if not 0 < len(keys) <= MAX_KEYS_OF_A_FETCH:
            sentence = f"{self._name}: a fetch has 1 to {MAX_KEYS_OF_A_FETCH} keys, not {len(keys)}"
            self._refuse(done, sentence)
            return
        by_node: dict[NodeLink, dict[int, list[int]]] = {}
        owner = self._topology.owner
        for place, key in enumerate(keys):
            slot = slot_of(key)
            link = owner[slot]
            if link is None or not link.is_up:
                self._refuse(done, self._topology.why_down(link, slot))
                return
            by_node.setdefault(link, {}).setdefault(slot, []).append(place)
        gather = _Gather(keys, done, track and self.tracks)
        self._gathers.add(gather)
        gather.parts = len(by_node)
        for link, slots in by_node.items():
            self._ask(_Part(gather, link, list(slots.values()), False), ask_once=False)

    # -- asking and answers -----------------------------------------------------------------------

    def _ask(self, part: _Part, *, ask_once: bool) -> None:
        """Write one node's share; ``ask_once`` tells a node that takes over the slot to answer already."""
        gather, keys = part.gather, part.gather.keys
        announced = ASKING if ask_once else CACHING_YES if gather.track else b""
        part.stride = 2 if announced else 1
        commands = b"".join(
            [announced + pack_mget([keys[place] for place in places]) for places in part.slots]
        )
        part.link.submit(commands, part.stride * len(part.slots), partial(self._answered, part))

    def _answered(self, part: _Part, replies: Replies | None, error: SourceError | None) -> None:
        gather = part.gather
        if gather.done is None:
            return
        if replies is None:
            self._settle(gather, error)
            return
        stride = part.stride
        if stride == 2 and gather.track and not part.redirected and replies[0] != b"OK":
            part.link.distrust_tracking()
        elsewhere: dict[Redirect, list[list[int]]] = {}
        for places, values in zip(part.slots, replies[stride - 1 :: stride], strict=True):
            if type(values) is list and len(values) == len(places):
                for place, value in zip(places, values, strict=True):
                    gather.values[place] = value
                continue
            moved = isinstance(values, ReplyError) and redirect_of(
                str(values), self._topology.address_of(part.link)
            )
            if not moved or part.redirected:
                sentence = f"{part.link.name}: {refusal_of(values, len(places))}"
                self._settle(gather, SourceError(sentence))
                return
            elsewhere.setdefault(moved, []).append(places)
        gather.parts -= 1
        if elsewhere:
            self._follow(gather, elsewhere)
        if gather.parts == 0:
            self._settle(gather, None)

    def _follow(self, gather: _Gather, elsewhere: dict[Redirect, list[list[int]]]) -> None:
        """Ask where the slots are said to be, once, and look at the whole table meanwhile."""
        self._topology.refresh_soon()
        if gather.timer is None:
            loop = asyncio.get_running_loop()
            late_s = loop.time() + self._limits.read_timeout_s
            sentence = f"{self._name}: slots moved, and their new node did not answer in time"
            gather.timer = loop.call_at(late_s, self._settle, gather, SourceError(sentence))
        for redirect, slots in elsewhere.items():
            link = self._topology.link_to(redirect.address)
            if redirect.for_good:
                self._topology.owner[redirect.slot] = link
            gather.parts += 1
            self._ask(_Part(gather, link, slots, True), ask_once=not redirect.for_good)

    def _settle(self, gather: _Gather, error: SourceError | None) -> None:
        done, gather.done = gather.done, None
        if done is None:
            return
        self._gathers.discard(gather)
        if gather.timer is not None:
            gather.timer.cancel()
        if error is not None:
            done(None, SourceError(*error.args))
        else:
            done(gather.values, None)
            # What was told while parts of the answer were on their way may be older than the copies just made.
            if gather.changed != []:
                self._tell(gather.changed)

    # -- changes ----------------------------------------------------------------------------------

    def _on_changed(self, keys: Sequence[bytes] | None) -> None:
        for gather in self._gathers:
            if keys is None:
                gather.changed = None
            elif gather.changed is not None:
                gather.changed += keys
                if len(gather.changed) > self._limits.max_waiting_fetches:
                    gather.changed = None
        self._tell(keys)

    def _tell(self, keys: Sequence[bytes] | None) -> None:
        if self.on_invalidated is not None:
            self.on_invalidated(keys)

    def _refuse(self, done: FetchDone, sentence: str) -> None:
        asyncio.get_running_loop().call_soon(done, None, SourceError(sentence))

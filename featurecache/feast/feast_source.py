"""Rows from an online store that feast writes (Redis layout), read only, as if they were ours.

Decides how a fetch travels: one ``HMGET`` per entity, whatever the number of its views, all in one write; the answers
become packed rows, so that copies, statuses and joins behind it know no difference. It follows no invalidations: copies
live by their time alone. It must never write to feast's store, and never read a refusal as "no such row".
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from functools import partial

from featurecache.errors import SourceError
from featurecache.feast.feast_layout import FeastLayout, Plan
from featurecache.feast.feast_rows import UNREADABLE, rows_of
from featurecache.sources.dialing import Address, Login
from featurecache.sources.node_link import FindAddress, NodeLink
from featurecache.sources.ports import FetchDone, Invalidated
from featurecache.sources.resp import Replies, ReplyError
from featurecache.sources.source_limits import MAX_KEYS_OF_A_FETCH, SourceLimits


class FeastSource:
    """Fills ``RowSource`` over one connection to one server. ``where``: an address, or what finds it each time."""

    def __init__(
        self,
        where: Address | FindAddress,
        login: Login,
        limits: SourceLimits,
        layout: FeastLayout,
        *,
        name: str = "",
        random_unit: Callable[[], float] = random.random,
    ) -> None:
        find = _always(where) if isinstance(where, Address) else where
        self._link = NodeLink(find, login, limits, name or f"feast at {where}", random_unit)
        self.layout = layout
        self.on_invalidated: Invalidated | None = None
        """Never called: ``tracks`` is false."""
        self.unreadable_rows = 0
        """Rows so far with a value of another type than their view says."""

    @property
    def tracks(self) -> bool:
        """Never: copies live by their time."""
        return False

    @property
    def is_up(self) -> bool:
        """Whether a fetch would be sent now."""
        return self._link.is_up

    @property
    def name(self) -> str:
        """The address without passwords."""
        return self._link.name

    async def start(self) -> None:
        """Begin to connect; returns after the first try, whether it succeeded or not."""
        await self._link.start()

    async def close(self) -> None:
        """Let go of the connection; fetches still waiting get their error."""
        await self._link.close()

    def fetch(self, keys: Sequence[bytes], done: FetchDone, *, track: bool) -> None:
        """One ``HMGET`` per entity; see ``RowSource``. ``track`` changes nothing."""
        link = self._link
        if not 0 < len(keys) <= MAX_KEYS_OF_A_FETCH:
            sentence = f"{link.name}: a fetch has 1 to {MAX_KEYS_OF_A_FETCH} keys, not {len(keys)}"
            link.refuse(done, SourceError(sentence))
            return
        plan = self.layout.plan(keys)
        commands = [command for reads in plan.reads for command in reads.commands()]
        told = partial(self._answered, done, len(keys), plan)
        if commands:
            link.submit(b"".join(commands), len(commands), told)
        else:
            asyncio.get_running_loop().call_soon(told, [], None)

    def _answered(
        self,
        done: FetchDone,
        count: int,
        plan: Plan,
        replies: Replies | None,
        error: SourceError | None,
    ) -> None:
        if replies is None:
            done(None, error)
            return
        for one in replies:
            if type(one) is not list and not _is_no_hash(one):
                done(None, SourceError(f"{self.name}: the server refused the read: {one!s:.200}"))
                return
        done(self._rows(count, plan, replies), None)

    def _rows(self, count: int, plan: Plan, replies: Replies) -> list[bytes | None]:
        rows: list[bytes | None] = [None] * count
        for slot in plan.unknown:
            rows[slot] = UNREADABLE
        begin = 0
        for reads in plan.reads:
            width = reads.width
            answered = replies[begin : begin + len(reads.hashes)]
            begin += len(reads.hashes)
            sound = [type(one) is list for one in answered]
            if not all(sound):
                blank = [None] * width
                answered = [one if ok else blank for one, ok in zip(answered, sound, strict=True)]
            start = 0
            for place, view in enumerate(reads.views):
                made = rows_of(view, answered, start)
                start += len(view.fields)
                for row, slots, ok in zip(made, reads.slots, sound, strict=True):
                    rows[slots[place]] = row if ok else UNREADABLE
        self.unreadable_rows += rows.count(UNREADABLE)
        return rows


def _is_no_hash(reply: object) -> bool:
    """Something else lies under an entity's name; that is this entity's trouble alone."""
    return isinstance(reply, ReplyError) and str(reply).startswith("WRONGTYPE")


def _always(address: Address) -> FindAddress:
    async def find() -> Address:
        return address

    return find

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
from featurecache.sources.linked_source import LinkedSource
from featurecache.sources.node_link import FindAddress
from featurecache.sources.ports import FetchDone, Invalidated
from featurecache.sources.resp import Replies, ReplyError
from featurecache.sources.source_limits import SourceLimits


class FeastSource(LinkedSource):
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
        named = name or f"feast at {where}"
        super().__init__(where, login, limits, name=named, random_unit=random_unit)
        self.layout = layout
        self.on_invalidated: Invalidated | None = None
        """Never called: ``tracks`` is false."""
        self.unreadable_rows = 0
        """Rows so far with a value of another type than their view says."""

    @property
    def tracks(self) -> bool:
        """Never: copies live by their time."""
        return False

    def fetch(self, keys: Sequence[bytes], done: FetchDone, *, track: bool) -> None:
        """One ``HMGET`` per entity; see ``RowSource``. ``track`` changes nothing."""
        if not self._may_fetch(keys, done):
            return
        link = self._link
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

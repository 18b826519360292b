"""Rows into the store: who wins is decided there, how they get there is decided here.

Splits rows into calls of bounded size, to one server or to the nodes of a cluster, and counts what became of each. A
write that was answered is in the store; one that was not may be sent again. It must never write a row from the future
(no later row would ever replace it) nor one that the store would have to forget at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from redis.exceptions import RedisError

from featurecache.columns import Values
from featurecache.errors import RowError, SourceError
from featurecache.rows.codec import RowCodec
from featurecache.sources.cluster_slots import slot_of, slot_owners
from featurecache.sources.dialing import Address
from featurecache.writing.key_column import KeyColumn
from featurecache.writing.store_client import Client, StoreClients, source_error
from featurecache.writing.write_lane import Call, MovedAwayError, WriteLane
from featurecache.writing.write_script import (
    MAX_BATCH_BYTES,
    MAX_BATCH_ROWS,
    pack_call,
    pack_words,
    words_of_rows,
)

FUTURE_LIMIT_S = 300.0
"""By how much the clock of who makes rows may be ahead of ours."""
UNBELIEVABLE_AFTER_S = 86_400.0
"""A stored row that much from the future is damaged: it is replaced."""
EARLIEST_US = -(2**53)
"""The year 1684; the store's numbers hold no more."""
PATIENCE_S = 30.0
PACKED_ROWS = 1024
"""At once. A socket holds about as many that the store has not yet taken, so that it is never idle."""
MAX_MOVES = 20
"""Of one flush of a cluster whose slots move."""

EventTimes = npt.NDArray[np.int64]


class WriteCounts(msgspec.Struct):
    """What became of rows; the sum is the rows that were given."""

    created: int = 0
    newer: int = 0
    """Replaced an older one."""
    rewritten: int = 0
    """Replaced one of the same event time."""
    older: int = 0
    """Ignored: the store has a newer one."""
    expired: int = 0
    """Not sent: past their retention."""
    duplicates: int = 0
    """Not sent: a newer row of the same name was in the same write."""

    def add(self, other: WriteCounts) -> None:
        """Count those, too."""
        for field in self.__struct_fields__:
            setattr(self, field, getattr(self, field) + getattr(other, field))

    @property
    def total(self) -> int:
        """Rows that were given."""
        return sum(getattr(self, field) for field in self.__struct_fields__)


class RowWriter:
    """Writes packed rows. Not for several threads at once."""

    def __init__(self, clients: StoreClients, *, patience_s: float = PATIENCE_S) -> None:
        self._clients = clients
        self._patience_s = patience_s
        self._lanes: dict[Address | None, WriteLane] = {}
        self._owners: list[Address | None] = []
        self.counts = WriteCounts()
        """Of everything that was answered or not sent; complete after ``flush``."""

    def write(
        self,
        keys: Sequence[bytes],
        rows: Sequence[bytes],
        event_us: EventTimes,
        *,
        now_us: int,
        keep_us: int | None,
    ) -> None:
        """Send rows under their keys. ``event_us``: the rows' own times; ``keep_us``: their retention, None: for ever.

        Of several rows with one key the newest is sent, among equal ones the last. Replies are waited for only when
        many are under way: call ``flush`` before relying on it. Raises ``RowError`` before anything is sent when a
        time is in the future, ``SourceError`` when the store refuses or stays away.
        """
        check_times(event_us, now_us)
        chosen = self._chosen(keys, event_us, now_us, keep_us)
        if len(chosen) < len(keys):
            keys, rows = [keys[i] for i in chosen], [rows[i] for i in chosen]
        self._write_all(keys, rows, now_us, keep_us)

    def write_columns(
        self,
        codec: RowCodec,
        keys: Sequence[bytes] | KeyColumn,
        columns: Mapping[str, Values],
        nulls: Mapping[str, npt.NDArray[np.bool_]],
        event_us: EventTimes,
        *,
        write_us: int,
        now_us: int,
        keep_us: int | None,
        first_row: int = 1,
    ) -> None:
        """The same for rows that are still columns: those that would not be sent are not packed either.

        ``first_row``: what whoever sent the rows calls the first of them.
        """
        check_times(event_us, now_us, first_row)
        if isinstance(keys, KeyColumn):
            if self._takes_all(codec, keys, event_us, now_us, keep_us):
                self._write_blocks(codec, keys, columns, nulls, event_us, write_us, now_us, keep_us)
                return
            keys = keys.listed()
        chosen = self._chosen(keys, event_us, now_us, keep_us)
        if len(chosen) < len(keys):
            places = np.array(chosen, np.intp)
            keys, event_us = [keys[i] for i in chosen], event_us[places]
            columns = {name: values[places] for name, values in columns.items()}
            nulls = {name: mask[places] for name, mask in nulls.items()}
        # In small pieces: the store works on one while the next is packed.
        for start in range(0, len(keys), PACKED_ROWS):
            part = slice(start, start + PACKED_ROWS)
            rows = codec.encode(
                {name: values[part] for name, values in columns.items()},
                {name: mask[part] for name, mask in nulls.items()},
                event_us[part],
                write_us,
            )
            self._write_all(keys[part], rows, now_us, keep_us)

    def _takes_all(
        self,
        codec: RowCodec,
        keys: KeyColumn,
        event_us: EventTimes,
        now_us: int,
        keep_us: int | None,
    ) -> bool:
        """Whether every row goes to one server, and all are equally long: then nothing is looked at one by one."""
        if self._clients.is_cluster or not codec.schema.is_fixed or not len(keys):
            return False
        all_fresh = keep_us is None or int(event_us.min()) > now_us - keep_us
        return all_fresh and keys.all_differ()

    def _write_blocks(
        self,
        codec: RowCodec,
        keys: KeyColumn,
        columns: Mapping[str, Values],
        nulls: Mapping[str, npt.NDArray[np.bool_]],
        event_us: EventTimes,
        write_us: int,
        now_us: int,
        keep_us: int | None,
    ) -> None:
        lane, row_bytes = self._lane(None), codec.schema.row_bytes
        latest_us, keep_ms = _limits(now_us, keep_us)
        key_words, places = keys.words()
        call_rows = max(1, min(MAX_BATCH_ROWS, MAX_BATCH_BYTES // row_bytes))
        packed_rows = max(1, PACKED_ROWS // call_rows) * call_rows
        for start in range(0, len(keys), packed_rows):
            part = slice(start, start + packed_rows)
            block = codec.encode_block(
                {name: values[part] for name, values in columns.items()},
                {name: mask[part] for name, mask in nulls.items()},
                event_us[part],
                write_us,
            )
            row_words = words_of_rows(block)
            for first in range(0, len(block), call_rows):
                own = row_words[first : first + call_rows]
                begin, end = places[start + first], places[start + first + len(own)]
                packed = pack_words(
                    len(own), key_words[begin:end], own, row_bytes,
                    latest_us=latest_us, keep_ms=keep_ms,
                )  # fmt: skip
                lane.submit([Call(packed)])

    def _write_all(
        self, keys: Sequence[bytes], rows: Sequence[bytes], now_us: int, keep_us: int | None
    ) -> None:
        if not keys:
            return
        latest_us, keep_ms = _limits(now_us, keep_us)
        if self._clients.is_cluster:
            self._send(_calls_by_slot(keys, rows, latest_us, keep_ms))
            return
        lane = self._lane(None)
        for part in _parts(rows):
            packed = pack_call(keys[part], rows[part], latest_us=latest_us, keep_ms=keep_ms)
            lane.submit([Call(packed)])

    def _chosen(
        self, keys: Sequence[bytes], event_us: EventTimes, now_us: int, keep_us: int | None
    ) -> Sequence[int]:
        """Which rows are sent: one a key, none that the store would forget at once."""
        fresh = np.ones(len(keys), np.bool_) if keep_us is None else event_us > now_us - keep_us
        expired = len(keys) - int(fresh.sum())
        self.counts.expired += expired
        if not expired and len(set(keys)) == len(keys):
            return range(len(keys))
        places = np.flatnonzero(fresh).tolist()
        newest: dict[bytes, int] = {}
        times = event_us.tolist()
        for place in places:
            rival = newest.setdefault(keys[place], place)
            if times[place] >= times[rival]:
                newest[keys[place]] = place
        self.counts.duplicates += len(places) - len(newest)
        return list(newest.values())

    def flush(self) -> None:
        """Return when every row that was sent is in the store. Raises ``SourceError``."""
        for _ in range(MAX_MOVES):
            try:
                for lane in list(self._lanes.values()):
                    lane.flush()
                return
            except MovedAwayError:
                self._send(self._withdrawn())
        raise SourceError(f"{self._clients.name}: slots keep moving; run it again when they rest")

    def close(self) -> None:
        """Let go of the connections, not of the clients. What was not flushed may be lost."""
        for lane in self._lanes.values():
            lane.close()

    @property
    def repeats(self) -> int:
        """How often calls had to be sent again."""
        return sum(lane.repeats for lane in self._lanes.values())

    def _tell(self, reply: list[int]) -> None:
        counts = self.counts
        counts.created += reply[0]
        counts.newer += reply[1]
        counts.rewritten += reply[2]
        counts.older += reply[3]

    def _lane(self, address: Address | None) -> WriteLane:
        lane = self._lanes.get(address)
        if lane is None:
            clients = self._clients
            client = clients.server() if address is None else clients.node(address)
            name = clients.name if address is None else f"{clients.name} (node {address})"
            lane = WriteLane(
                client, name, self._tell, patience_s=self._patience_s, moves=address is not None
            )
            self._lanes[address] = lane
        return lane

    # -- cluster ----------------------------------------------------------------------------------

    def _send(self, calls: Sequence[Call]) -> None:
        """Each to the node that has its slot; follows slots that move meanwhile."""
        waiting = calls
        for _ in range(MAX_MOVES):
            by_node: dict[Address, list[Call]] = {}
            for call in waiting:
                by_node.setdefault(call.asking or self._owner(call.slot), []).append(call)
            waiting = []
            for address, own in by_node.items():
                try:
                    self._lane(address).submit(own)
                except MovedAwayError:
                    waiting = [*waiting, *self._withdrawn()]
            if not waiting:
                return
        raise SourceError(f"{self._clients.name}: slots keep moving; run it again when they rest")

    def _owner(self, slot: int) -> Address:
        if not self._owners:
            self._owners = slot_table(self._clients)
        owner = self._owners[slot]
        if owner is None:
            raise SourceError(
                f"{self._clients.name}: no node of the cluster has slot {slot}; repair it first"
            )
        return owner

    def _withdrawn(self) -> list[Call]:
        """Every call that was not answered, and from now on the table of slots as it is now."""
        self._owners = slot_table(self._clients)
        return [call for lane in self._lanes.values() for call in lane.withdraw()]


def _limits(now_us: int, keep_us: int | None) -> tuple[int, int | None]:
    """The latest time that a stored row can truly have (µs), and for how long rows are kept (ms)."""
    keep_ms = None if keep_us is None else -(-keep_us // 1000)
    return now_us + int(UNBELIEVABLE_AFTER_S * 1e6), keep_ms


def check_times(event_us: EventTimes, now_us: int, first_row: int = 1) -> None:
    """Raise ``RowError`` with the number of the first row whose time no row may have, counted from ``first_row``."""
    if not len(event_us):
        return
    late_us = now_us + int(FUTURE_LIMIT_S * 1e6)
    if int(event_us.max()) > late_us:
        row = int((event_us > late_us).argmax())
        ahead_s = (int(event_us[row]) - now_us) / 1e6
        raise RowError(
            f"row {first_row + row}: its event time is {ahead_s:,.0f} s in the future (at most {FUTURE_LIMIT_S:g} s "
            "are borne): no later row would replace it; check its unit and its zone"
        )
    if int(event_us.min()) < EARLIEST_US:
        row = int((event_us < EARLIEST_US).argmax())
        raise RowError(f"row {first_row + row}: its event time is before the year 1684")


def slot_table(clients: StoreClients) -> list[Address | None]:
    """The owner of each slot, from the first node that answers. Raises ``SourceError``."""
    problem: SourceError | None = None
    for client in clients.seeds():
        try:
            reply = _cluster_slots(client)
        except RedisError as error:
            problem = source_error(error, clients.name)
            continue
        return slot_owners(reply, _address_of(client))
    raise problem or SourceError(f"{clients.name} names no node")


def _cluster_slots(client: Client) -> object:
    connection: Any = client.connection_pool.get_connection()
    try:
        connection.send_command("CLUSTER", "SLOTS")
        reply = connection.read_response()
    finally:
        client.connection_pool.release(connection)
    if isinstance(reply, RedisError):
        raise reply
    return reply


def _address_of(client: Client) -> Address:
    told = client.connection_pool.connection_kwargs
    return Address(told["host"], told["port"])


def _parts(rows: Sequence[bytes]) -> list[slice]:
    """Runs of rows that make one call each."""
    longest = max(map(len, rows), default=1)
    if longest * MAX_BATCH_ROWS <= MAX_BATCH_BYTES:
        return [slice(i, i + MAX_BATCH_ROWS) for i in range(0, len(rows), MAX_BATCH_ROWS)]
    parts, start, size = [], 0, 0
    for i, row in enumerate(rows):
        if i > start and (size + len(row) > MAX_BATCH_BYTES or i - start == MAX_BATCH_ROWS):
            parts.append(slice(start, i))
            start, size = i, 0
        size += len(row)
    if start < len(rows):
        parts.append(slice(start, len(rows)))
    return parts


def _calls_by_slot(
    keys: Sequence[bytes], rows: Sequence[bytes], latest_us: int, keep_ms: int | None
) -> list[Call]:
    """A script may touch one slot only."""
    slots: dict[int, list[int]] = {}
    for i, key in enumerate(keys):
        slots.setdefault(slot_of(key), []).append(i)
    calls = []
    for slot, places in slots.items():
        own_keys, own_rows = [keys[i] for i in places], [rows[i] for i in places]
        for part in _parts(own_rows):
            packed = pack_call(own_keys[part], own_rows[part], latest_us=latest_us, keep_ms=keep_ms)
            calls.append(Call(packed, slot))
    return calls

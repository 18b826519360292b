"""Where feast's online store (Redis, key serialisation version 3) has what: keys, fields, and rows made of them.

One hash per entity: its name is the join keys and their values, then the project; its fields are 4-byte hashes of
``view:feature``, and ``_ts:view`` for the event time. All views with the same join keys share the hash.

Decides how our names become feast's and how feast's answers become packed rows, so that all behind a source stays as
it is. Read only. Serialisation versions below 3 are not read: feast has withdrawn them.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

import msgspec

from featurecache.columns import ColumnType
from featurecache.errors import DefinitionError
from featurecache.feast.feast_values import check_type
from featurecache.manifests.manifest import EntitySpec, Manifest, ViewSpec
from featurecache.rows.codec import RowCodec

_KEY_TAGS = {"string": 2, "int32": 3, "int64": 4}
_INTS = {"int32": struct.Struct("<i"), "int64": struct.Struct("<q")}
_U32 = struct.Struct("<I")
_TWO_U32 = struct.Struct("<II")
_ESCAPED = re.compile(rb"%([0-9A-F]{2})")
_MASK = 0xFFFF_FFFF


def murmur3_32(data: bytes) -> int:
    """MurmurHash3, 32 bits, seed 0: unsigned."""
    state = 0
    body = len(data) // 4 * 4
    for (word,) in struct.iter_unpack("<I", data[:body]):
        state ^= _scrambled(word)
        state = (state << 13 | state >> 19) & _MASK
        state = (state * 5 + 0xE654_6B64) & _MASK
    state ^= _scrambled(int.from_bytes(data[body:], "little")) ^ len(data)
    for shift, factor in ((16, 0x85EB_CA6B), (13, 0xC2B2_AE35)):
        state = ((state ^ state >> shift) * factor) & _MASK
    return state ^ state >> 16


def _scrambled(word: int) -> int:
    word = word * 0xCC9E_2D51 & _MASK
    return (word << 15 | word >> 17) * 0x1B87_3593 & _MASK


def field_of(view: str, feature: str) -> bytes:
    """The field of a feature in its entity's hash."""
    return _U32.pack(murmur3_32(f"{view}:{feature}".encode()))


def event_time_field(view: str) -> bytes:
    """The field of a view's event time."""
    return f"_ts:{view}".encode()


class FeastEntity:
    """Names of the hashes of one kind of entity.

    ``project`` is feast's. Ids are ours (``keys.py``): parts in the order of the entity's keys, escaped, joined by |.
    """

    def __init__(self, entity: EntitySpec, project: str) -> None:
        self.name = entity.name
        self._order = sorted(range(len(entity.keys)), key=list(entity.keys).__getitem__)
        self._kinds = list(entity.keys.values())
        names = [name.encode() for name in sorted(entity.keys)]
        named = b"".join(_TWO_U32.pack(_KEY_TAGS["string"], len(name)) + name for name in names)
        self._head = _U32.pack(len(names)) + named
        self._tail = project.encode()

    def key_of(self, entity_id: bytes) -> bytes | None:
        """The hash's name; None for an id that no such entity can have."""
        parts = entity_id.split(b"|")
        if len(parts) != len(self._order):
            return None
        out = [self._head]
        for i in self._order:
            kind = self._kinds[i]
            value = _value_of(kind, parts[i])
            if value is None:
                return None
            out += (_TWO_U32.pack(_KEY_TAGS[kind], len(value)), value)
        out.append(self._tail)
        return b"".join(out)


def _value_of(kind: str, part: bytes) -> bytes | None:
    if kind == "string":
        return (
            _ESCAPED.sub(lambda found: bytes.fromhex(found[1].decode()), part)
            if b"%" in part
            else part
        )
    try:
        return _INTS[kind].pack(int(part))
    except (ValueError, struct.error):
        return None


class Run(msgspec.Struct, frozen=True):
    """Columns of one type, side by side among the fields that are asked for."""

    type: ColumnType
    names: tuple[str, ...]
    start: int


class FeastView:
    """The fields of one view, in an order in which columns of one type stand together.

    ``feast_name``: what feast calls the view (with ``_v2`` and its kind where versions are switched on).
    Raises ``DefinitionError`` for columns that feast has no type for.
    """

    def __init__(self, view: ViewSpec, feast_name: str = "") -> None:
        self.name = view.name
        self.entity = view.entity
        self.codec = RowCodec(view.schema)
        name = feast_name or view.name
        columns = sorted(
            ((one.name, one.parsed) for one in view.columns), key=lambda one: str(one[1])
        )
        self.runs: list[Run] = []
        start = 0
        for _, together in groupby(columns, key=lambda one: str(one[1])):
            run = list(together)
            check_type(run[0][1])
            self.runs.append(Run(run[0][1], tuple(column for column, _ in run), start))
            start += len(run)
        self.fields = [*(field_of(name, column) for column, _ in columns), event_time_field(name)]
        self.packed_fields = b"".join(b"\r\n$%d\r\n%b" % (len(one), one) for one in self.fields)
        self._refuse_clashes([column for column, _ in columns])

    def _refuse_clashes(self, columns: Sequence[str]) -> None:
        """Four bytes of hash are few, and feast does not look: two features in one field are lost to both."""
        seen: dict[bytes, str] = {}
        for field, column in zip(self.fields, columns, strict=False):
            other = seen.setdefault(field, column)
            if other != column:
                raise DefinitionError(
                    f"view '{self.name}': feast keeps '{other}' and '{column}' in the same field; rename one in feast"
                )


class Reads(msgspec.Struct):
    """Entities that are asked for the same views: one command each, in this order."""

    views: list[FeastView]
    hashes: list[bytes]
    slots: list[list[int]]
    """For each entity, where the row of each view goes."""

    @property
    def width(self) -> int:
        """Values in each reply."""
        return sum(len(view.fields) for view in self.views)

    def commands(self) -> list[bytes]:
        """Packed, one ``HMGET`` per entity."""
        head = b"*%d\r\n$5\r\nHMGET\r\n" % (2 + self.width)
        tail = b"".join(view.packed_fields for view in self.views) + b"\r\n"
        return [b"%b$%d\r\n%b%b" % (head, len(name), name, tail) for name in self.hashes]


class Plan(msgspec.Struct):
    """How some of our keys are read from feast's store."""

    reads: list[Reads]
    unknown: list[int]
    """Slots of keys of a view or entity that is not in the manifest."""
    impossible: list[int]
    """Slots of keys whose id no entity of the kind can have: nothing is asked, there is no such row."""


def _shape(manifest: Manifest, view: ViewSpec) -> tuple[object, ...]:
    """All that decides how the rows of a view are found and packed."""
    return view.entity, tuple(manifest.entity(view.entity).keys.items()), view.schema.id


class FeastLayout:
    """How the views of a manifest lie in the store of feast's ``project``.

    ``names``: views that feast calls otherwise, ours → feast's (``rates`` → ``rates_v2``).
    Raises ``DefinitionError`` for types that feast cannot hold.
    """

    def __init__(
        self, manifest: Manifest, project: str, names: Mapping[str, str] | None = None
    ) -> None:
        called = dict(names or {})
        for name in called:
            manifest.view(name)  # refuses what is not there
        self._entities = {one.name.encode(): FeastEntity(one, project) for one in manifest.entities}
        self._views = {
            one.name.encode(): FeastView(one, called.get(one.name, "")) for one in manifest.views
        }
        self._made_as = {one.name: _shape(manifest, one) for one in manifest.views}

    def check(self, manifest: Manifest, views: Iterable[str]) -> None:
        """``DefinitionError`` for a view that a later manifest defines otherwise, or did not have before.

        Feast's values carry no schema: what is read is packed as this layout's own manifest says.
        """
        for name in views:
            if self._made_as.get(name) != _shape(manifest, manifest.view(name)):
                raise DefinitionError(
                    f"view '{name}' is new, or has changed, since Feast's store was opened: keys and columns are "
                    "read as they were defined at the start; start the server again"
                )

    def plan(self, keys: Sequence[bytes]) -> Plan:
        """The reads for keys of ours (``keys.py``), which are all different."""
        plan = Plan([], [], [])
        together: dict[bytes, tuple[list[bytes], list[int]]] = {}
        for slot, key in enumerate(keys):
            who, _, view = key.partition(b"{")[2].partition(b"}:")
            if view not in self._views or who.partition(b":")[0] not in self._entities:
                plan.unknown.append(slot)
                continue
            views, slots = together.setdefault(who, ([], []))
            views.append(view)
            slots.append(slot)
        reads: dict[tuple[bytes, ...], Reads] = {}
        for who, (names, slots) in together.items():
            self._add(plan, reads, who, names, slots)
        plan.reads = list(reads.values())
        return plan

    def _add(
        self,
        plan: Plan,
        reads: dict[tuple[bytes, ...], Reads],
        who: bytes,
        names: list[bytes],
        slots: list[int],
    ) -> None:
        entity_name, _, entity_id = who.partition(b":")
        hash_name = self._entities[entity_name].key_of(entity_id)
        if hash_name is None:
            plan.impossible += slots
            return
        same = reads.get((entity_name, *names))
        if same is None:
            views = [self._views[name] for name in names]
            same = reads[entity_name, *names] = Reads(views, [], [])
        same.hashes.append(hash_name)
        same.slots.append(slots)

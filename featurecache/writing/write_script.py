"""The compare-and-set that runs inside the store, and its call as bytes.

Decides which of two rows of a name wins: the one of the newer event time, among equal ones the later write. The
outcome does not depend on the order in which rows arrive, nor on how often one does, so a batch whose reply was lost
may be sent again. It must never look behind a row's header.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from featurecache.rows.codec import SHORTEST_ROW_BYTES
from featurecache.rows.schema import FORMAT_VERSION

MAX_BATCH_ROWS = 256
"""In one call; the store does nothing else meanwhile (about 1 ms)."""
MAX_BATCH_BYTES = 64 * 1024
"""Of rows in one call; one row may be larger."""
WHOLE_ROW_BYTES = 1024
"""Up to here the store compares whole rows, read by one command; of longer ones it reads the header alone."""

SCRIPT = f"""
local call, format = redis.call, string.format
local whole_number = format('%d', 2^40) == '1099511627776' and '%d' or '%.0f'
local expiry_ms, expiry
local latest, keep_ms, whole = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3] == '1'
local counts, winners, wins = {{0, 0, 0, 0}}, {{}}, 0
local stored = whole and redis.call('MGET', unpack(KEYS)) or {{}}
for i, key in ipairs(KEYS) do
  local row = ARGV[i + 3]
  local old = stored[i]
  if not whole then
    old = redis.pcall('STRLEN', key)
    if type(old) == 'number' and old >= {SHORTEST_ROW_BYTES} then
      old = redis.call('GETRANGE', key, 0, {SHORTEST_ROW_BYTES - 1})
    end
  end
  local event, written = struct.unpack('<i8i8', row, 9)
  local outcome = 1
  if type(old) == 'string' and #old >= {SHORTEST_ROW_BYTES} and old:byte(1) == {FORMAT_VERSION} then
    local old_event, old_written = struct.unpack('<i8i8', old, 9)
    if old_event <= latest then
      if event > old_event then
        outcome = 2
      elseif event == old_event and written >= old_written then
        outcome = 3
      else
        outcome = 4
      end
    end
  end
  counts[outcome] = counts[outcome] + 1
  if outcome < 4 then
    if keep_ms then
      local ms = math.floor(event / 1000) + keep_ms
      if ms ~= expiry_ms then
        expiry_ms, expiry = ms, format(whole_number, ms)
      end
      call('SET', key, row, 'PXAT', expiry)
    else
      winners[wins + 1], winners[wins + 2] = key, row
      wins = wins + 2
    end
  end
end
if wins > 0 then
  redis.call('MSET', unpack(winners))
end
return counts
"""
"""KEYS: names, all different. ARGV: the latest event time (µs) that a stored row can truly have, milliseconds for which
a row is kept after its event time or "", "1" to read stored rows whole, then one row per name. Returns how many were
created, newer, rewritten and older. A stored value that is no row of this format counts as if there were none.

One ``SET … PXAT`` per kept row: ``MSET`` and a ``PEXPIREAT`` per row cost the store no less (measured). ``%d`` is
the faster format, where the server's long integers are wide enough for it."""

SHA = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest().encode()

Buffer: TypeAlias = bytes | memoryview

_HEAD = b"*%d\r\n$7\r\nEVALSHA\r\n$40\r\n" + SHA + b"\r\n"


def pack_call(
    keys: Sequence[bytes], rows: Sequence[bytes], *, latest_us: int, keep_ms: int | None
) -> bytes:
    """The script's call for ``rows`` under ``keys``, ready for the socket."""
    longest = max(map(len, rows))
    row_words: bytes
    if min(map(len, rows)) == longest:
        head = b"$%d\r\n" % longest
        row_words = b"%b%b\r\n" % (head, (b"\r\n" + head).join(rows))
    else:
        row_words = b"".join([b"$%d\r\n%b\r\n" % (len(row), row) for row in rows])
    key_words = b"".join([b"$%d\r\n%b\r\n" % (len(key), key) for key in keys])
    return pack_words(
        len(keys), key_words, row_words, longest, latest_us=latest_us, keep_ms=keep_ms
    )


def pack_words(
    count: int,
    key_words: Buffer,
    row_words: Buffer,
    longest: int,
    *,
    latest_us: int,
    keep_ms: int | None,
) -> bytes:
    """The same of ``count`` keys and rows that are words of the protocol already; ``longest``: bytes of a row."""
    counted, latest = b"%d" % count, b"%d" % latest_us
    keep = b"" if keep_ms is None else b"%d" % keep_ms
    head = _HEAD % (6 + 2 * count) + b"$%d\r\n%b\r\n" % (len(counted), counted)
    limits = b"$%d\r\n%b\r\n$%d\r\n%b\r\n$1\r\n%d\r\n" % (
        len(latest), latest, len(keep), keep, longest <= WHOLE_ROW_BYTES
    )  # fmt: skip
    return b"".join((head, key_words, limits, row_words))


def words_of_rows(block: npt.NDArray[np.uint8]) -> memoryview:
    """Rows of one length, ``(rows, row_bytes)``, as words of the protocol: ``(rows, bytes of a word)``."""
    rows, row_bytes = block.shape
    head = b"$%d\r\n" % row_bytes
    words = np.empty((rows, len(head) + row_bytes + 2), np.uint8)
    words[:, : len(head)] = np.frombuffer(head, np.uint8)
    words[:, len(head) : -2] = block
    words[:, -2:] = np.frombuffer(b"\r\n", np.uint8)
    return words.data

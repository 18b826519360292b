"""Where a master is now, by asking its sentinels.

Decides whom to believe: the first sentinel that answers in time, beginning with another one after each try, so that
one which is cut off and remembers the past is not asked for ever. Whether the server found is a master is not known
here; the handshake with it looks. It must never wait longer for one sentinel than the connect and read timeouts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from featurecache.errors import SourceError
from featurecache.sources.dialing import Address, Login, dial
from featurecache.sources.resp import ReplyError
from featurecache.sources.source_limits import SourceLimits


class SentinelResolver:
    """Finds the address of one master; one object per link."""

    def __init__(
        self, sentinels: Sequence[Address], master: str, login: Login, limits: SourceLimits
    ) -> None:
        self._sentinels = list(sentinels)
        self._master = master
        self._login = msgspec.structs.replace(
            login, mode="sentinel", track=False, database=0, must_be_master=False
        )
        self._limits = limits

    async def __call__(self) -> Address:
        """The address that a sentinel gives.

        Raises:
            SourceError: None of them knows the master.
        """
        said: list[str] = []
        for sentinel in list(self._sentinels):
            # Whatever comes of this try, the next one begins elsewhere.
            self._sentinels.append(self._sentinels.pop(0))
            try:
                reply = await self._ask(sentinel)
            except SourceError as error:
                said.append(str(error))
                continue
            match reply:
                case [bytes(host), bytes(port)] if port.isdigit():
                    return Address(host.decode(errors="replace"), int(port))
                case ReplyError():
                    said.append(f"sentinel {sentinel}: {reply}")
                case _:
                    said.append(f"sentinel {sentinel} knows no master {self._master!r}")
        raise SourceError(f"no master {self._master!r}: " + "; ".join(said))

    async def _ask(self, sentinel: Address) -> Any:
        session = await dial(
            sentinel,
            self._login,
            self._limits,
            f"sentinel {sentinel}",
            on_push=lambda _frame: None,
            on_lost=lambda _error: None,
        )
        try:
            return await session.connection.ask(
                b"SENTINEL", b"get-master-addr-by-name", self._master.encode()
            )
        finally:
            session.connection.abort(SourceError(f"sentinel {sentinel}: asked"))

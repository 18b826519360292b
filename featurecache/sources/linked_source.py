"""What sources over one connection have in common: its life, its name, and how many keys one fetch may have.

Decides nothing about how rows are asked for. It must never send anything itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from featurecache.errors import SourceError
from featurecache.sources.dialing import Address, Login
from featurecache.sources.node_link import FindAddress, NodeLink, always
from featurecache.sources.ports import FetchDone
from featurecache.sources.source_limits import MAX_KEYS_OF_A_FETCH, SourceLimits


class LinkedSource:
    """The part of ``RowSource`` that is the connection's. ``where``: an address, or what finds it each time."""

    def __init__(
        self,
        where: Address | FindAddress,
        login: Login,
        limits: SourceLimits,
        *,
        name: str = "",
        random_unit: Callable[[], float] = random.random,
    ) -> None:
        find = always(where) if isinstance(where, Address) else where
        self._link = NodeLink(find, login, limits, name or str(where), random_unit)

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

    def _may_fetch(self, keys: Sequence[bytes], done: FetchDone) -> bool:
        """Whether there are neither none nor too many; if not, ``done`` will be told."""
        if 0 < len(keys) <= MAX_KEYS_OF_A_FETCH:
            return True
        sentence = f"{self.name}: a fetch has 1 to {MAX_KEYS_OF_A_FETCH} keys, not {len(keys)}"
        self._link.refuse(done, SourceError(sentence))
        return False

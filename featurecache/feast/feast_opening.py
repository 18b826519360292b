"""From the address in the settings to the store that Feast writes to.

Decides which addresses can be read in Feast's layout: one server, over TCP or a Unix socket. Login and TLS are those of
``opening.py``. It must never repeat a password.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec

from featurecache.errors import DefinitionError
from featurecache.feast.feast_layout import FeastLayout
from featurecache.feast.feast_source import FeastSource
from featurecache.sources.dialing import Address
from featurecache.sources.opening import MEMORY, login_of
from featurecache.sources.source_limits import SourceLimits
from foundation.store_url import StoreUrlError, parse_store_url


def open_feast(
    url: str,
    layout: FeastLayout,
    limits: SourceLimits | None = None,
    *,
    random_unit: Callable[[], float] = random.random,
) -> FeastSource:
    """The source behind ``url``, not started yet.

    Raises:
        DefinitionError: The address is none, of another kind, or a file that it names cannot be read.
    """
    if url.startswith(MEMORY):
        raise DefinitionError(f"{MEMORY} is no store that Feast can write to")
    try:
        address = parse_store_url(url)
    except StoreUrlError as error:
        raise DefinitionError(str(error)) from None
    if address.kind not in ("server", "unix"):
        raise DefinitionError(
            f"{address.name}: Feast's layout is read from one server only; "
            "write redis://HOST:PORT, rediss:// or unix://"
        )
    if address.path:
        where = Address(path=address.path)
    else:
        [(host, port)] = address.hosts
        where = Address(host, port)
    login = msgspec.structs.replace(login_of(address), track=False)  # copies live by their time
    return FeastSource(
        where, login, limits or SourceLimits(), layout, name=address.name, random_unit=random_unit
    )

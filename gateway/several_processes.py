"""A gateway of several workers: start them, speak for them until a signal, let them drain."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

from foundation.access import AccessError
from foundation.store import StoreError
from gateway.edge.listeners import ListenError
from gateway.supervised_app import SupervisedGateway
from gateway.supervisor.supervisor import StartError
from gateway.terminal import (
    STOPPED,
    STOPPED_WHILE_LOADING,
    STOPPING,
    WRONG_START,
    announce,
    watch_signals,
)


async def serve(gateway: SupervisedGateway, say: Callable[[str], None]) -> int:
    """The whole life of the instance; the supervisor's exit code."""
    stop, force = watch_signals()
    starting = asyncio.create_task(gateway.start())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.wait((starting,))
        await gateway.abandon()
        say(STOPPED_WHILE_LOADING)
        return 0
    try:
        index = starting.result()
    except ListenError as error:
        print(f"headrace: {error}", file=sys.stderr)
        return WRONG_START
    except (AccessError, StartError, StoreError) as error:
        await gateway.abandon()
        print(f"headrace: {error}", file=sys.stderr)
        return WRONG_START
    announce(gateway.addresses, index, say)
    await stop.wait()
    say(STOPPING)
    say(STOPPED[await gateway.stop(force)])
    return 0

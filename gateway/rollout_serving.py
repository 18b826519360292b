"""Rollouts in one process that serves: the store, the disk, the routes and the tasks, put together.

Part of the composition root. Only where rollouts are enabled is any of this made, and the client of the store imported.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from pathlib import Path
from typing import Any

import msgspec

from foundation.store import Store, StoreError
from foundation.store_url import StoreUrlError
from gateway.core.arms import versions_of
from gateway.edge.rollout_access import RolloutAccess
from gateway.mirroring import Mirroring
from gateway.rollout_following import PlanStore, RolloutFollowing, VersionLoader
from gateway.rollout_routing import RolloutPlans
from gateway.serving import Serving
from rollout.last_known import LastKnown
from rollout.ports import Rollouts, Stored
from rollout.settings import RolloutSettings

PLANS_FOLDER = "plans"


def open_rollouts(settings: RolloutSettings, store: Store) -> Rollouts:
    """The plans in the store. Nothing is connected before something is asked.

    Raises ``StoreError`` for an address at which no plans can be kept.
    """
    # Slow to import, and not needed without rollouts.
    from rollout.redis_rollouts import RedisRollouts
    from rollout.store_client import check_address

    try:
        check_address(store.url)
    except StoreUrlError as error:
        raise StoreError(str(error)) from None
    return RedisRollouts(lambda: store.url, timeout_s=settings.store_timeout_ms * 1e-3)


class RolloutServing:
    """What a process that serves has of rollouts: ``read``, ``attach``, ``start``, ``close``, in this order."""

    def __init__(self, settings: RolloutSettings, rollouts: Rollouts) -> None:
        self._settings = settings
        self._store = PlanStore(rollouts, LastKnown(Path(settings.state_dir) / PLANS_FOLDER))
        tokens = Path(settings.tokens_file) if settings.tokens_file else None
        self.access = RolloutAccess(tokens, max_changes_per_min=settings.max_changes_per_min)
        """Who may choose an arm."""
        self._first: dict[str, Stored] = {}
        self._troubles: dict[str, str] = {}
        self._mirroring: Mirroring | None = None
        self._following: RolloutFollowing | None = None
        self.worker = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        """In heartbeats and reports."""

    async def read(self) -> dict[str, list[int]]:
        """Which versions of which models are to be loaded first of all, by the plans that are known."""
        self._first, self._troubles = await self._store.first()
        return {
            model: [int(one) for one in sorted(versions_of(stored.plan)) if one.isdecimal()]
            for model, stored in self._first.items()
        }

    def attach(self, serving: Serving, loader: VersionLoader) -> None:
        """Have the plans in force from the first request on."""
        self.plans = RolloutPlans(
            serving.table,
            serving.routing,
            clock=time.monotonic,
            may_choose=self.access.may_choose_arm,
        )
        self._following = RolloutFollowing(
            self._settings, self._store, self.plans, loader, worker=self.worker
        )
        if serving.mirroring is not None:
            self._mirroring = serving.mirroring
            self.plans.mirror(serving.mirroring)
        self.plans.export(serving.metrics)
        self._following.export(serving.metrics)
        for stored in self._first.values():
            self.plans.adopt(stored)
        for model, why in self._troubles.items():
            self.plans.distrust(model, why)

    async def start(self) -> None:
        """Begin to follow."""
        assert self._following is not None, "attach it first"
        await self._following.start()

    async def close(self) -> None:
        """Report what was counted last, and leave."""
        if self._following is None:  # the process never served
            await self._store.close()
            return
        await self._following.close()
        if self._mirroring is not None:
            await self._mirroring.close()

    def snapshot(self) -> dict[str, Any]:
        """What ``/status`` shows."""
        return {
            "worker": self.worker,
            "store_is_up": self._store.is_up,
            "troubles": dict(self.plans.troubles),
            "shadows": None if self._mirroring is None else self._mirroring.snapshot(),
            "plans": {
                model: {
                    "revision": one.plan.revision,
                    "state": one.plan.state.value,
                    "weights_percent": {arm.version: arm.weight_percent for arm in one.plan.arms},
                    "missing_versions": sorted(self.plans.missing(model)),
                    "unfit_versions": dict(one.unfit),
                    "counted": msgspec.to_builtins(self.plans.counters(model, is_final=False)),
                }
                for model, one in self.plans.followed.items()
            },
        }

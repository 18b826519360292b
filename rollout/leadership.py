"""Who of all controllers acts: this one's side of the lease, and when it has to stop.

Decides that the lease is ours no longer than its time after the moment at which we *asked* for it, by our own
monotonic clock: a process that was stopped in between notices before it acts again. It must never act on a lease that
may be another's, nor let one run out that is still wanted.
"""

from __future__ import annotations

from collections.abc import Callable

from rollout.ports import LEASE_MS, Rollouts

KEEPS_PER_LEASE = 3


class LostLeaseError(Exception):
    """The lease is not ours any more, or may not be: stop acting at once."""


class Leadership:
    """One controller's lease. ``monotonic_s`` is what it lasts by; ``wall_s`` is told to the store with each take."""

    def __init__(
        self,
        rollouts: Rollouts,
        owner: str,
        *,
        wall_s: Callable[[], float],
        monotonic_s: Callable[[], float],
        lease_ms: int = LEASE_MS,
    ) -> None:
        self._rollouts = rollouts
        self._wall_s = wall_s
        self._monotonic_s = monotonic_s
        self._lease_s = lease_ms / 1000
        self.owner = owner
        self.keep_every_s = self._lease_s / KEEPS_PER_LEASE
        self.fence = 0
        """Of our lease; 0 while it is another's."""
        self._until_s = self._keep_at_s = float("-inf")
        self._newest_fence = 0
        """That we have seen beyond ours."""

    @property
    def keep_in_s(self) -> float:
        """Until the lease wants to be kept; not below 0."""
        return max(0.0, self._keep_at_s - self._monotonic_s())

    async def seek(self) -> bool:
        """Take the lease, or keep ours when it is time; whether it is ours. Raises ``StoreAwayError``."""
        if self.fence:
            await self.hold()
            return True
        asked_s = self._monotonic_s()
        # A store may know fences and have forgotten the lease: what has been written must not stand above for ever.
        now_s = max(self._wall_s(), (self._newest_fence + 2) / 1000)
        fence = await self._rollouts.take_lease(self.owner, now_s)
        if fence is None:
            return False
        self.fence = fence
        self._lasts_from(asked_s)
        return True

    async def hold(self, *, now: bool = False) -> None:
        """Keep the lease if it is time, or ``now``. Raises ``LostLeaseError``, and ``StoreAwayError``.

        When this returns, it is ours.
        """
        self._must_be_ours()
        asked_s = self._monotonic_s()
        if now or asked_s >= self._keep_at_s:
            if not await self._rollouts.keep_lease(self.owner):
                self._lose()
                raise LostLeaseError("another controller has the lease, or the store has lost it")
            self._lasts_from(asked_s)
            self._must_be_ours()

    def yield_to(self, newer_fence: int) -> LostLeaseError:
        """Somebody with a newer lease has written; what to raise."""
        self._newest_fence = max(self._newest_fence, newer_fence)
        self._lose()
        return LostLeaseError(f"a controller with the newer fence {newer_fence} has written")

    async def drop(self) -> None:
        """Let the next one have it at once. Raises ``StoreAwayError``."""
        self._lose()
        await self._rollouts.drop_lease(self.owner)

    def _lasts_from(self, asked_s: float) -> None:
        self._until_s = asked_s + self._lease_s
        self._keep_at_s = asked_s + self.keep_every_s

    def _must_be_ours(self) -> None:
        if not self.fence or self._monotonic_s() >= self._until_s:
            self._lose()
            raise LostLeaseError(f"the lease was not kept for {self._lease_s:g} s")

    def _lose(self) -> None:
        self.fence = 0
        self._until_s = self._keep_at_s = float("-inf")

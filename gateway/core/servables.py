"""Model versions that can be asked, and what may still happen to them.

Decides which version answers a name, and when a version that is leaving is free of callers. It must never load,
run or close a model: the shell does, on what these classes say.

The life of a version is a table::

    state      event        next
    READY      retire       DRAINING   (UNLOADED when nobody holds it)
    DRAINING   last release UNLOADED
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from math import inf
from typing import Any

from backends.signature import Signature, Tensor
from gateway.errors import ErrorCode, HeadraceError, unknown_model
from gateway.messages import ModelStatus
from gateway.ports import ContextNames, Enrichment


class ServableState(Enum):
    """Whether a version takes calls, only finishes them, or is gone."""

    READY = "ready"
    DRAINING = "draining"
    UNLOADED = "unloaded"


class ServableVersion:
    """One loaded version of one model; fills the port ``Servable``.

    ``run`` is blocking and thread-safe. It takes the callers' tensors in the signature's order, and where there is an
    ``enrichment`` what that one has requests carry.
    """

    __slots__ = (
        "__weakref__",
        "context_names",
        "default_priority",
        "default_timeout_s",
        "enrichment",
        "handles",
        "max_batch_size",
        "name",
        "platform",
        "reply_templates",
        "run",
        "signature",
        "state",
        "version",
    )

    def __init__(
        self,
        name: str,
        version: str,
        signature: Signature,
        run: Callable[[Sequence[Tensor]], list[Tensor]],
        *,
        platform: str = "onnxruntime_onnx",
        max_batch_size: int = 0,
        default_timeout_s: float = inf,
        default_priority: int = 1,
        enrichment: Enrichment | None = None,
    ) -> None:
        self.name = name
        self.version = version
        self.signature = signature
        self.enrichment = enrichment
        self.context_names: ContextNames | None = enrichment
        self.run = run
        self.platform = platform
        self.max_batch_size = max_batch_size
        self.default_timeout_s = default_timeout_s
        self.default_priority = default_priority
        self.reply_templates: dict[str, Any] = {}
        self.state = ServableState.READY
        self.handles = 0

    def want(self, names: ContextNames | None) -> None:
        """Have codecs read these of requests from now on; what they remember of requests so far is forgotten."""
        if names != self.context_names:
            self.context_names = names
            self.reply_templates.clear()

    def acquire(self) -> None:
        """Count one caller in; NOT_READY once the version has gone.

        One that is leaving still takes those who found it before, and waited for features since.
        """
        if self.state is ServableState.UNLOADED:
            raise HeadraceError(
                ErrorCode.NOT_READY,
                f"model '{self.name}' version {self.version} is being unloaded",
            )
        self.handles += 1

    def release(self) -> bool:
        """Count one caller out; True when that was the last one of a version that is leaving."""
        self.handles -= 1
        assert self.handles >= 0, self
        if self.handles == 0 and self.state is ServableState.DRAINING:
            self.state = ServableState.UNLOADED
            return True
        return False

    def retire(self) -> bool:
        """Take no more callers; True when nobody holds the version and it may be closed now."""
        if self.state is ServableState.READY:
            self.state = ServableState.DRAINING if self.handles else ServableState.UNLOADED
            return self.state is ServableState.UNLOADED
        return False

    def __repr__(self) -> str:
        return f"ServableVersion({self.name}/{self.version} {self.state.value}, {self.handles} handles)"


class ServableTable:
    """Every model the repository knows, those that failed included; fills the port ``Catalog``.

    A failed model is remembered so that a caller reads why, instead of "unknown". Versions come and go while others
    are asked: a name answers with the old version up to the moment in which it answers with the new one.
    """

    __slots__ = ("_pins", "_ready", "_servables", "on_change", "statuses")

    def __init__(
        self, servables: Sequence[ServableVersion], statuses: Sequence[ModelStatus]
    ) -> None:
        self._servables: dict[tuple[str, str], ServableVersion] = {
            (one.name, one.version): one for one in servables
        }
        self.statuses = tuple(statuses)
        """The repository index."""
        self._ready: dict[tuple[str, str], ServableVersion] = {}
        self._pins: dict[str, str] = {}
        self.on_change: Callable[[str], None] = _nothing
        """Called with a model's name after its versions have changed."""
        for name in {one.name for one in servables}:
            self._elect(name)

    def put(self, servable: ServableVersion) -> ServableVersion | None:
        """Ask this one from now on; the one whose place it takes, for its owner to retire."""
        key = (servable.name, servable.version)
        replaced = self._servables.get(key)
        self._servables[key] = servable
        self._elect(servable.name)
        self.on_change(servable.name)
        return replaced

    def remove(self, servable: ServableVersion) -> None:
        """Ask it no more; harmless when another one has taken its place."""
        key = (servable.name, servable.version)
        if self._servables.get(key) is servable:
            del self._servables[key]
            self._elect(servable.name)
            self.on_change(servable.name)

    def answers(self, model: str) -> bool:
        """Whether the model's name without a version means anything now."""
        return (model, "") in self._ready

    def pin(self, model: str, version: str) -> None:
        """Have the model's name without a version mean this one, as long as it is loaded, and no other ever."""
        self._pins[model] = version
        self._elect(model)

    def _elect(self, name: str) -> None:
        """Rebuild what one model's names mean: each version its own servable, no version the newest or the pinned."""
        ready = {key: one for key, one in self._ready.items() if key[0] != name}
        mine = sorted(self.of(name), key=lambda one: int(one.version))
        pinned = self._pins.get(name)
        for servable in mine:
            ready[name, servable.version] = servable
            if pinned is None or servable.version == pinned:
                ready[name, ""] = servable
        self._ready = ready

    def of(self, model: str) -> list[ServableVersion]:
        """Loaded versions of a model, in no order."""
        return [one for key, one in self._servables.items() if key[0] == model]

    def find(self, model: str, version: str) -> ServableVersion:
        """The servable for a name and a version ("" = newest ready); NOT_FOUND or NOT_READY otherwise."""
        servable = self._ready.get((model, version))
        if servable is not None:
            return servable
        raise self._why_not(model, version)

    def _why_not(self, model: str, version: str) -> HeadraceError:
        known = [one for one in self.statuses if one.name == model]
        if not known:
            return unknown_model(model)
        failed = [one for one in known if one.state != "READY" and version in ("", one.version)]
        if failed:
            return HeadraceError(
                ErrorCode.NOT_READY,
                f"model '{model}' is not ready: {failed[-1].reason}",
            )
        if not version and model in self._pins:
            return HeadraceError(
                ErrorCode.NOT_READY,
                f"model '{model}' is not ready: version {self._pins[model]}, which answers by its rollout's plan, "
                "is not loaded",
                retry_after_s=1.0,
            )
        have = ", ".join(self.versions(model))
        return HeadraceError(
            ErrorCode.NOT_FOUND,
            f"model '{model}' has no version '{version}'; loaded versions: {have or 'none'}",
        )

    def versions(self, model: str) -> list[str]:
        """Loaded versions of a model, oldest first."""
        return sorted((one.version for one in self.of(model)), key=int)

    @property
    def servables(self) -> Mapping[tuple[str, str], ServableVersion]:
        """Loaded versions by (name, version)."""
        return self._servables


def _nothing(model: str) -> None:
    return None

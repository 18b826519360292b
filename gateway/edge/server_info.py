"""Answers about the server and its models that both fronts give.

Health, readiness, metadata and configuration, from the table of servables. It must never run a model, and it changes
nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gateway.core.servables import ServableTable
from gateway.edge.metadata import model_config, model_metadata, server_metadata
from gateway.errors import HeadraceError
from gateway.messages import LaneFacts
from gateway.ports import Servable

FactsOf = Callable[[Servable], LaneFacts]


class ServerInfo:
    """The facts that are asked for between predictions."""

    def __init__(self, table: ServableTable, lane_facts: FactsOf, version: str) -> None:
        self._table = table
        self._lane_facts = lane_facts
        self._version = version
        self.draining = False

    def ready(self) -> tuple[bool, str]:
        """Whether the server takes calls now, and why not.

        A model that failed to load does not hold the others back: its own readiness says so.
        """
        if self.draining:
            return False, "the server is shutting down"
        return True, ""

    def server_metadata(self) -> dict[str, Any]:
        """As ``GET /v2``."""
        return server_metadata(self._version)

    def model_ready(self, model: str, version: str) -> tuple[bool, str]:
        """Whether this version answers now. Like Triton, an unknown model is merely not ready."""
        refusal = self.refusal(model, version)
        return (True, "") if refusal is None else (False, refusal.message)

    def refusal(self, model: str, version: str) -> HeadraceError | None:
        """Why this version does not answer now (NOT_FOUND or NOT_READY); None when it does."""
        try:
            self._table.find(model, version)
        except HeadraceError as error:
            return error
        return None

    def models(self) -> list[str]:
        """The names of all models, served or not."""
        return sorted({status.name for status in self._table.statuses})

    def model_metadata(self, model: str, version: str) -> dict[str, Any]:
        """As ``GET /v2/models/{m}``; NOT_FOUND or NOT_READY when it cannot be asked."""
        servable = self._table.find(model, version)
        return model_metadata(servable, self._table.versions(model))

    def model_config(self, model: str, version: str) -> dict[str, Any]:
        """As ``GET /v2/models/{m}/config``."""
        servable = self._table.find(model, version)
        return model_config(servable, self._lane_facts(servable))

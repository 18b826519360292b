"""Variables that Kubernetes sets for a service called headrace are none of ours; a typing mistake still is."""

from __future__ import annotations

import pytest

from foundation.settings import SettingsError, load
from gateway.settings import GatewaySettings


def _load(**environment: str) -> GatewaySettings:
    return load(GatewaySettings, file=None, environment=environment, overrides={})


def test_service_links_of_kubernetes_are_passed_over() -> None:
    settings = _load(
        HEADRACE_SERVICE_HOST="10.0.0.1",
        HEADRACE_SERVICE_PORT="8000",
        HEADRACE_SERVICE_PORT_GRPC="8001",
        HEADRACE_PORT="tcp://10.0.0.1:8000",
        HEADRACE_PORT_8000_TCP_ADDR="10.0.0.1",
        HEADRACE_PORT_8000_TCP="tcp://10.0.0.1:8000",
        HEADRACE_GATEWAY_SERVICE_HOST="10.0.0.1",
    )
    assert settings == GatewaySettings()


@pytest.mark.parametrize("name", ["HEADRACE_SERVER_HTP_PORT", "HEADRACE_PORT", "HEADRACE_SERVICE"])
def test_a_typing_mistake_is_still_an_error(name: str) -> None:
    with pytest.raises(SettingsError, match=name):
        _load(**{name: "8000"})

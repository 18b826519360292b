"""What cannot be served is said before anything is loaded."""

from __future__ import annotations

import pytest

from gateway.edge.data_ports import check_grpcio
from gateway.edge.listeners import ListenError
from gateway.settings import GatewaySettings, GrpcLimits, ServerSettings

REFERENCE = GrpcLimits(server="grpcio")


def test_a_missing_grpcio_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.edge.data_ports.find_spec", lambda name: None)
    check_grpcio(GatewaySettings())
    with pytest.raises(ListenError, match="install it with the extra 'grpcio'"):
        check_grpcio(GatewaySettings(grpc=REFERENCE))


def test_workers_cannot_share_a_path_with_grpcio() -> None:
    def settings(workers: int) -> GatewaySettings:
        server = ServerSettings(workers=workers, grpc_unix_socket="grpc.sock")
        return GatewaySettings(server=server, grpc=REFERENCE)

    check_grpcio(settings(1))
    with pytest.raises(ListenError, match=r"several workers cannot share server\.grpc_unix_socket"):
        check_grpcio(settings(2))


@pytest.mark.parametrize("port", ["http", "grpc", "admin"])
def test_each_port_may_have_an_address_of_its_own(port: str) -> None:
    server = ServerSettings(host="10.0.0.1", **{f"{port}_host": "10.0.0.2"})
    assert server.host_of(port) == "10.0.0.2"
    assert {server.host_of(one) for one in {"http", "grpc", "admin"} - {port}} == {"10.0.0.1"}

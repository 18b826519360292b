from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from backends.signature import Signature
from gateway.core.servables import ServableTable, ServableVersion
from gateway.edge.server_info import ServerInfo
from gateway.errors import ErrorCode, HeadraceError
from gateway.messages import LaneFacts, ModelStatus
from gateway.ports import Servable


def version(number: str) -> ServableVersion:
    return ServableVersion("m", number, Signature((), ()), lambda inputs: [], max_batch_size=8)


def facts(servable: Servable) -> LaneFacts:
    return LaneFacts(instances=int(servable.version))


@pytest.fixture
def info() -> ServerInfo:
    statuses = [
        ModelStatus("m", "1", "READY", ""),
        ModelStatus("m", "2", "READY", ""),
        ModelStatus("broken", "1", "UNAVAILABLE", "no such operator"),
    ]
    return ServerInfo(ServableTable([version("1"), version("2")], statuses), facts, "1.2.3")


def test_a_server_is_ready_until_it_stops(info: ServerInfo) -> None:
    """A model that could not be loaded does not hold the others back."""
    assert info.ready() == (True, "")
    info.draining = True
    assert info.ready() == (False, "the server is shutting down")


def test_the_server_says_its_version(info: ServerInfo) -> None:
    assert info.server_metadata()["version"] == "1.2.3"


@pytest.mark.parametrize("number", ["", "1", "2"])
def test_a_loaded_model_is_ready(info: ServerInfo, number: str) -> None:
    assert info.model_ready("m", number) == (True, "")


@pytest.mark.parametrize(
    ("model", "number", "why"),
    [
        ("broken", "", "no such operator"),
        ("broken", "1", "no such operator"),
        ("m", "3", "loaded versions: 1, 2"),
        ("nobody", "", "unknown model 'nobody'"),
    ],
)
def test_any_other_model_is_not_ready_and_says_why(
    info: ServerInfo, model: str, number: str, why: str
) -> None:
    ready, reason = info.model_ready(model, number)
    assert not ready
    assert why in reason


def test_metadata_names_all_loaded_versions(info: ServerInfo) -> None:
    for number in ("", "1"):
        assert info.model_metadata("m", number)["versions"] == ["1", "2"]


def test_the_configuration_is_that_of_the_versions_own_lane(info: ServerInfo) -> None:
    assert info.model_config("m", "1")["instance_group"][0]["count"] == 1
    assert info.model_config("m", "")["instance_group"][0]["count"] == 2


@pytest.mark.parametrize("ask", [ServerInfo.model_metadata, ServerInfo.model_config])
@pytest.mark.parametrize(
    ("model", "code"), [("nobody", ErrorCode.NOT_FOUND), ("broken", ErrorCode.NOT_READY)]
)
def test_nothing_is_told_of_a_model_that_cannot_be_asked(
    info: ServerInfo,
    ask: Callable[[ServerInfo, str, str], dict[str, Any]],
    model: str,
    code: ErrorCode,
) -> None:
    with pytest.raises(HeadraceError) as refused:
        ask(info, model, "")
    assert refused.value.code is code

"""The calls that are not predictions: what they take, what they refuse, and how long ones end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.core.statistics import VersionStatistics
from gateway.errors import ErrorCode, HeadraceError
from gateway.messages import ModelStatus
from protos import inference
from tests.support.grpc_in_thread import WAIT_S, GrpcInThread
from tests.support.raw_h2 import (
    DEADLINE_EXCEEDED,
    INTERNAL,
    INVALID_ARGUMENT,
    NOT_FOUND,
    OK,
    SERVICE,
    UNIMPLEMENTED,
    Outcome,
    RawGrpc,
)

STATUSES = [
    ModelStatus("broken", "1", "UNAVAILABLE", "no such operator"),
    ModelStatus("identity", "1", "READY", ""),
]


class Repository:
    """A ``RepositoryControl`` that remembers; a load of "slow" never ends by itself."""

    def __init__(self) -> None:
        self.done: list[tuple[str, str]] = []
        self.began = threading.Event()
        self.cancelled = threading.Event()

    async def index(self) -> list[ModelStatus]:
        return STATUSES

    async def load(self, model: str) -> None:
        if model == "slow":
            self.began.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        if model == "buggy":
            raise RuntimeError("nobody expected this")
        if model != "identity":
            raise HeadraceError(ErrorCode.NOT_FOUND, f"no folder for {model}")
        self.done.append(("load", model))

    async def unload(self, model: str) -> None:
        self.done.append(("unload", model))

    async def statistics(self, model: str, version: str) -> list[VersionStatistics]:
        return []


@pytest.fixture
def repository() -> Repository:
    return Repository()


@pytest.fixture
def front(repository: Repository) -> Iterator[GrpcInThread]:
    with GrpcInThread(control=repository) as running:
        yield running


def ask(connection: RawGrpc, name: str, message: Any, *headers: tuple[str, str]) -> Outcome:
    return connection.ask(message.SerializeToString(), SERVICE + name, headers)


def test_the_index_lists_every_version(connection: RawGrpc) -> None:
    outcome = ask(connection, "RepositoryIndex", inference.RepositoryIndexRequest())
    found = inference.RepositoryIndexResponse.FromString(outcome.body[5:])
    assert [(one.name, one.version, one.state, one.reason) for one in found.models] == [
        ("broken", "1", "UNAVAILABLE", "no such operator"),
        ("identity", "1", "READY", ""),
    ]


def test_the_index_may_list_what_is_ready(connection: RawGrpc) -> None:
    outcome = ask(connection, "RepositoryIndex", inference.RepositoryIndexRequest(ready=True))
    found = inference.RepositoryIndexResponse.FromString(outcome.body[5:])
    assert [one.name for one in found.models] == ["identity"]


@pytest.mark.parametrize("what", ["Load", "Unload"])
def test_a_model_is_loaded_and_unloaded(
    connection: RawGrpc, repository: Repository, what: str
) -> None:
    request = getattr(inference, f"RepositoryModel{what}Request")(model_name="identity")
    if what == "Unload":
        request.parameters["unload_dependents"].bool_param = True
    outcome = ask(connection, f"RepositoryModel{what}", request)
    assert (outcome.status, outcome.body) == (OK, bytes(5))
    assert repository.done == [(what.lower(), "identity")]


@pytest.mark.parametrize(
    ("what", "parameter", "sentence"),
    [
        ("Load", "config", "file-override loads are refused"),
        ("Load", "file:1/model.onnx", "file-override loads are refused"),
        ("Load", "unload_dependents", "not a parameter of a load"),
        ("Unload", "config", "not a parameter of an unload"),
    ],
)
def test_other_parameters_are_refused(
    connection: RawGrpc, repository: Repository, what: str, parameter: str, sentence: str
) -> None:
    request = getattr(inference, f"RepositoryModel{what}Request")(model_name="identity")
    request.parameters[parameter].string_param = "x"
    outcome = ask(connection, f"RepositoryModel{what}", request)
    assert outcome.status == INVALID_ARGUMENT
    assert sentence in outcome.message
    assert repository.done == []


@pytest.mark.parametrize(
    "name", ["RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"]
)
def test_there_is_only_one_repository(connection: RawGrpc, name: str) -> None:
    request = getattr(inference, f"{name}Request")(repository_name="other")
    assert ask(connection, name, request).status == INVALID_ARGUMENT


@pytest.mark.parametrize(
    "name", ["RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"]
)
def test_without_control_nothing_of_it_is_offered(name: str) -> None:
    with GrpcInThread() as front, RawGrpc(front.address) as connection:
        outcome = connection.ask(b"", SERVICE + name)
        assert outcome.status == UNIMPLEMENTED
        assert "repository" in outcome.message


@pytest.mark.parametrize("message", [b"\xff", b"\x12\x01"])
def test_a_broken_message_is_refused(connection: RawGrpc, message: bytes) -> None:
    assert connection.ask(message, SERVICE + "RepositoryModelLoad").status == INVALID_ARGUMENT


@pytest.mark.parametrize(("model", "status"), [("absent", NOT_FOUND), ("buggy", INTERNAL)])
def test_an_error_has_its_status(
    connection: RawGrpc, model: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    request = inference.RepositoryModelLoadRequest(model_name=model)
    outcome = ask(connection, "RepositoryModelLoad", request)
    assert outcome.status == status
    assert "nobody" not in outcome.message


SLOW = inference.RepositoryModelLoadRequest(model_name="slow")


def test_a_long_call_ends_with_its_deadline(connection: RawGrpc, repository: Repository) -> None:
    outcome = ask(connection, "RepositoryModelLoad", SLOW, ("grpc-timeout", "50m"))
    assert outcome.status == DEADLINE_EXCEEDED
    assert repository.cancelled.is_set()


@pytest.mark.parametrize("how", ["reset", "closed"])
def test_a_long_call_ends_with_its_caller(
    front: GrpcInThread, connection: RawGrpc, repository: Repository, how: str
) -> None:
    stream = connection.start(SLOW.SerializeToString(), SERVICE + "RepositoryModelLoad")
    assert connection.ask(b"", SERVICE + "ServerLive").status == OK, "others go on meanwhile"
    assert repository.began.wait(WAIT_S)
    if how == "reset":
        connection.cancel(stream)
    else:
        connection.close()
    assert repository.cancelled.wait(WAIT_S)
    assert front.open_calls == []

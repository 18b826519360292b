"""The parts of uvicorn and ngh2 that we subclass, override or call are still there.

Both are pinned to a minor version. When a new minor comes in, this file fails first and names the
module to read again; after reading, change the pin in ``pyproject.toml`` and the shape here.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from dataclasses import fields
from importlib.metadata import version

import ngh2
import ngh2.events
import pytest
from packaging.requirements import Requirement
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from tests.arch.checkout import pyproject

UVICORN_CHANGED = "uvicorn changed: re-read edge/http_fast_lane.py"
NGH2_CHANGED = "ngh2 changed: re-read edge/grpc_front.py"

PROTOCOL_METHODS = {
    "connection_made": ["transport"],
    "connection_lost": ["exc"],
    "data_received": ["data"],
    "eof_received": [],
    "pause_writing": [],
    "resume_writing": [],
    "on_message_begin": [],
    "on_url": ["url"],
    "on_header": ["name", "value"],
    "on_headers_complete": [],
    "on_body": ["body"],
    "on_message_complete": [],
    "on_response_complete": [],
    "shutdown": [],
    "timeout_keep_alive_handler": [],
    "_start_asgi_task": ["cycle", "app"],
    "_unset_keepalive_if_required": [],
    "send_400_response": ["msg"],
}
PROTOCOL_ATTRIBUTES = {
    "access_log", "app", "app_state", "client", "config", "connections", "cycle",
    "expect_100_continue", "flow", "headers", "loop", "parser", "pipeline", "scheme", "scope",
    "server", "server_state", "tasks", "timeout_keep_alive", "timeout_keep_alive_task", "transport",
}  # fmt: skip
PARSER_METHODS = {
    "feed_data", "get_http_version", "get_method", "should_keep_alive", "should_upgrade",
}  # fmt: skip
CYCLE_PARAMETERS = {
    "scope", "transport", "flow", "logger", "access_logger", "access_log", "default_headers",
    "message_event", "expect_100_continue", "keep_alive", "on_response",
}  # fmt: skip
CYCLE_ATTRIBUTES = {"body", "disconnected", "keep_alive", "more_body", "response_complete"}
SERVER_STATE = {"connections", "default_headers", "tasks", "total_requests"}

CONNECTION_MEMBERS = {
    "acknowledge_received_data", "data_to_send", "end_stream", "events", "initiate_connection",
    "local_settings", "local_window_size", "ping", "queued_body_size", "receive_data",
    "remote_settings", "remote_window_size", "reset_stream", "send_data", "send_goaway",
    "send_request", "send_response", "send_shutdown_notice", "send_trailers",
    "set_local_window_size", "stream_local_window_size", "stream_remote_window_size",
    "terminate_connection", "update_settings", "want_read", "want_write",
}  # fmt: skip
CONFIGURATION_FIELDS = {
    "auto_window_update", "glitch_rate_limit", "max_continuations",
    "max_deflate_dynamic_table_size", "max_inbound_header_count", "max_inbound_header_list_size",
    "max_outbound_ack", "max_send_header_block_length", "max_settings",
    "peer_max_concurrent_streams", "stream_reset_rate_limit",
}  # fmt: skip
EVENT_FIELDS = {
    "RequestReceived": ("stream_id", "headers", "end_stream"),
    "ResponseReceived": ("stream_id", "headers", "end_stream"),
    "TrailersReceived": ("stream_id", "headers"),
    "DataReceived": ("stream_id", "data", "end_stream"),
    "StreamReset": ("stream_id", "error_code"),
    "StreamClosed": ("stream_id", "error_code", "local_error"),
    "SettingsReceived": ("settings",),
    "PingReceived": ("opaque_data",),
    "WindowUpdated": ("stream_id", "increment"),
    "GoAwayReceived": ("last_stream_id", "error_code", "debug_data"),
    "ConnectionClosed": ("error_code", "debug_data"),
}


@pytest.fixture
def protocol() -> Iterator[HttpToolsProtocol]:
    async def app(scope: object, receive: object, send: object) -> None:
        raise NotImplementedError

    loop = asyncio.new_event_loop()
    config = Config(app=app, log_config=None, lifespan="off")
    yield HttpToolsProtocol(config, ServerState(), {}, _loop=loop)
    loop.close()


@pytest.mark.parametrize("name", ["uvicorn", "ngh2", "protobuf", "httptools"])
def test_the_installed_version_is_the_pinned_one(name: str) -> None:
    pins = {Requirement(line).name: line for line in pyproject()["project"]["dependencies"]}
    assert Requirement(pins[name]).specifier.contains(version(name))


@pytest.mark.parametrize("name", PROTOCOL_METHODS)
def test_uvicorn_protocol_method(name: str) -> None:
    assert _parameters(HttpToolsProtocol, name) == PROTOCOL_METHODS[name], UVICORN_CHANGED


def test_uvicorn_protocol_attributes(protocol: HttpToolsProtocol) -> None:
    assert not PROTOCOL_ATTRIBUTES - set(vars(protocol)), UVICORN_CHANGED
    assert not PARSER_METHODS - set(dir(protocol.parser)), UVICORN_CHANGED


def test_uvicorn_request_response_cycle() -> None:
    constructor = inspect.signature(RequestResponseCycle).parameters
    assert set(constructor) == CYCLE_PARAMETERS, UVICORN_CHANGED
    cycle = RequestResponseCycle(**dict.fromkeys(constructor))  # type: ignore[arg-type]
    assert not CYCLE_ATTRIBUTES - set(vars(cycle)), UVICORN_CHANGED


def test_uvicorn_server_state() -> None:
    """``edge/listeners.py`` has it without uvicorn's server."""
    assert set(vars(ServerState())) == SERVER_STATE, UVICORN_CHANGED


def test_ngh2_connection() -> None:
    assert not CONNECTION_MEMBERS - set(dir(ngh2.Connection)), NGH2_CHANGED


def test_ngh2_configuration() -> None:
    assert not CONFIGURATION_FIELDS - {f.name for f in fields(ngh2.Configuration)}, NGH2_CHANGED


@pytest.mark.parametrize("name", EVENT_FIELDS)
def test_ngh2_event(name: str) -> None:
    event = getattr(ngh2.events, name, None)
    assert getattr(event, "__match_args__", None) == EVENT_FIELDS[name], NGH2_CHANGED


def _parameters(owner: type, name: str) -> list[str] | None:
    method = getattr(owner, name, None)
    if method is None:
        return None
    return [parameter for parameter in inspect.signature(method).parameters if parameter != "self"]

"""Starting with models that cannot be served, and in places where no server can be."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import onnxruntime
import pytest

from tests.e2e.conftest import StartServer
from tests.support import models, raw_h2
from tests.support.raw_h2 import RawGrpc, infer_message
from tests.support.raw_http import RawHttp, floats_json, get, post_infer, post_infer_chunked
from tests.support.server_process import ServerProcess

START_WITHIN_S = 20.0
BAD_MODELS = {
    "corrupt": "Protobuf parsing failed",
    "empty": "empty",
    "half_written": "",
    "missing_file": "is missing",
    "no_versions": "no version folder",
    "unknown_operator": "NoSuchOperator",
    "future_opset": "opset",
    "lost_weights": "weights.bin",
    "sequence": "which the protocol cannot carry",
    "bad_toml": "not valid TOML",
    "bad_key": "nearest known one is `batching.max_batch_size`",
}


@pytest.fixture(scope="module")
def mixed_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mixed_models")
    good = models.identity()
    models.write_model(root, "identity", good)
    models.write_model(root, "corrupt", os.urandom(4096))
    models.write_model(root, "empty", b"")
    models.write_model(root, "half_written", models.mlp()[: len(models.mlp()) // 2])
    (root / "missing_file" / "1").mkdir(parents=True)
    (root / "no_versions").mkdir()
    models.write_model(root, "unknown_operator", models.unknown_operator())
    models.write_model(root, "future_opset", models.future_opset())
    models.write_model(root, "lost_weights", models.missing_external_data())
    models.write_model(root, "sequence", models.sequence_output())
    models.write_model(root, "bad_toml", good, toml="[batching\n")
    models.write_model(root, "bad_key", good, toml="[batching]\nmax_batch_sizes = 3\n")
    models.write_model(root, "on_cuda", good, toml='[onnxruntime]\ndevice = "cuda"\n')
    # One bad version beside a good one.
    models.write_model(root, "old_is_good", good, version=1, toml='[versions]\npolicy = "all"\n')
    models.write_model(root, "old_is_good", b"rubbish", version=2)
    (root / "README.md").write_text("not a model")
    (root / ".hidden" / "1").mkdir(parents=True)
    return root


@pytest.fixture(scope="module")
def server(start_server: StartServer, mixed_models: Path) -> ServerProcess:
    return start_server(mixed_models)


def _reasons(server: ServerProcess) -> dict[tuple[str, str], str]:
    return {
        (one["name"], one["version"]): one["reason"]
        for one in server.status()["models"]
        if one["state"] != "READY"
    }


def test_good_models_are_served_beside_bad_ones(server: ServerProcess) -> None:
    with RawHttp(server.http) as http, RawGrpc(server.grpc) as grpc:
        assert http.ask(post_infer("identity", floats_json())).status == 200
        assert grpc.ask(infer_message("identity", bytes(16), [1, 4])).status == raw_h2.OK
        assert http.ask(get("/v2/health/ready")).status == 200, "bad models hold up nobody"


@pytest.mark.parametrize("model", BAD_MODELS)
def test_the_reason_is_told_wherever_somebody_asks(server: ServerProcess, model: str) -> None:
    words = BAD_MODELS[model]
    found = {reason for (name, _), reason in _reasons(server).items() if name == model}
    assert len(found) == 1, found
    (reason,) = found
    assert words.lower() in reason.lower()
    assert reason.strip()
    assert "Traceback" not in reason
    with RawHttp(server.http) as http, RawGrpc(server.grpc) as grpc:
        for make in (post_infer, post_infer_chunked):
            response = http.ask(make(model, floats_json()))
            assert response.status == 503, response
            assert reason in response.error
        assert http.ask(get(f"/v2/models/{model}/ready")).status == 400
        assert http.ask(get(f"/v2/models/{model}")).status == 503
        outcome = grpc.ask(infer_message(model, bytes(16), [1, 4]))
        assert outcome.status == raw_h2.UNAVAILABLE
        assert reason[:200] in outcome.message
    said = [line for line in server.output.splitlines() if f"REFUSED: {reason}" in line]
    assert any(model in line for line in said), server.output


def test_a_bad_version_does_not_take_the_good_one_away(server: ServerProcess) -> None:
    with RawHttp(server.http) as http:
        assert http.ask(post_infer("old_is_good", floats_json(), version="1")).status == 200
        assert http.ask(post_infer("old_is_good", floats_json(), version="2")).status == 503
        assert http.ask(post_infer("old_is_good", floats_json(), version="3")).status == 404
        newest = http.ask(post_infer("old_is_good", floats_json()))
        assert newest.json["model_version"] == "1", "the newest that can be served"


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="CUDA is there"
)
def test_cuda_that_is_not_there_is_no_silent_cpu(server: ServerProcess) -> None:
    reason = _reasons(server)["on_cuda", "1"]
    assert "cuda" in reason.lower()
    with RawHttp(server.http) as http:
        response = http.ask(post_infer("on_cuda", floats_json()))
        assert response.status == 503
        assert reason in response.error


def test_files_and_hidden_folders_are_no_models(server: ServerProcess) -> None:
    names = {one["name"] for one in server.status()["models"]}
    assert not names & {"README.md", ".hidden"}


def test_the_terminal_says_what_was_refused(server: ServerProcess) -> None:
    assert "corrupt/1 REFUSED: " in server.output
    assert f"refused (reasons: http://127.0.0.1:{server.admin[1]}/status)" in server.output


# ---- no server at all ------------------------------------------------------------------------------


def _fails(
    models_folder: Path, options: list[str], settings: dict[str, object] | None = None
) -> str:
    """The output of a start that must end with exit code 2, in bounded time and without a stack trace."""
    process = ServerProcess(models_folder, settings, options).launch()
    code = process.wait(START_WITHIN_S)
    output = process.output
    process.forget()
    assert code == 2, output
    assert "Traceback" not in output
    lines = [line for line in output.splitlines() if line.startswith("headrace: ")]
    assert len(lines) == 1, output
    return lines[0]


@pytest.mark.parametrize("option", ["--http-port", "--grpc-port", "--admin-port"])
def test_a_port_that_is_taken(stress_models: Path, tmp_path: Path, option: str) -> None:
    models.write_model(tmp_path, "identity", models.identity())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        options = []
        for name in ("--http-port", "--grpc-port", "--admin-port"):
            options += [name, str(port if name == option else 0)]
        line = _fails(tmp_path, options)
    assert f"port {port} on 127.0.0.1 is taken" in line
    assert option in line


def test_a_second_server_on_the_same_ports(tmp_path: Path) -> None:
    models.write_model(tmp_path, "identity", models.identity())
    with ServerProcess(tmp_path) as first:
        ports = {"--http-port": first.http, "--grpc-port": first.grpc, "--admin-port": first.admin}
        options = [word for name, (_, port) in ports.items() for word in (name, str(port))]
        assert "is taken" in _fails(tmp_path, options)
        with RawHttp(first.http) as http:
            assert http.ask(post_infer("identity", floats_json())).status == 200


def test_a_host_that_is_not_ours(tmp_path: Path) -> None:
    models.write_model(tmp_path, "identity", models.identity())
    for host in ("192.0.2.1", "no.such.host.invalid"):
        line = _fails(tmp_path, ["--host", host, "--http-port", "0", "--grpc-port", "0"])
        assert host in line


def test_no_models_folder(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    assert f"{missing} does not exist" in _fails(missing, [])


def test_a_models_folder_that_is_a_file(tmp_path: Path) -> None:
    file = tmp_path / "models"
    file.write_text("hello")
    assert f"{file} is not a folder" in _fails(file, [])


def test_an_empty_models_folder_is_a_server_without_models(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server, RawHttp(server.http) as http:
        assert http.ask(get("/v2/health/ready")).status == 200
        assert http.ask(post_infer("identity", floats_json())).status == 404


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("http.max_body_bytes", "lots", "max_body_bytes"),
        ("http.max_body_byte", "5", "did you mean 'HEADRACE_HTTP_MAX_BODY_BYTES'?"),
        ("drain.delay_s", "-", "delay_s"),
        ("server.http_port", "99999", "<= 65535"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, key: str, value: str, words: str) -> None:
    line = _fails(tmp_path, ["--grpc-port", "0", "--admin-port", "0"], {key: value})
    assert words in line

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundation.settings import ENV_PREFIX, SettingsError, known_keys, load


class Server(msgspec.Struct, frozen=True):
    host: str = "127.0.0.1"
    http_port: int = 8000
    secure: bool = False


class Drain(msgspec.Struct, frozen=True):
    delay_s: float = 1.0
    mode: Literal["soft", "hard"] = "soft"


class Settings(msgspec.Struct, frozen=True):
    server: Server = Server()
    drain: Drain = Drain()


def loaded(
    file: Path | None = None,
    environment: dict[str, str] | None = None,
    overrides: dict[str, dict[str, Any]] | None = None,
) -> Settings:
    return load(Settings, file=file, environment=environment or {}, overrides=overrides or {})


def complaint(**sources: Any) -> str:
    with pytest.raises(SettingsError) as refused:
        loaded(**sources)
    return str(refused.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "headrace.toml"


# -- where values come from -----------------------------------------------------------------------


def test_without_sources_everything_is_as_declared() -> None:
    assert loaded() == Settings()


def test_a_file_may_say_some_things_only(file: Path) -> None:
    file.write_text('[server]\nhttp_port = 9000\n\n[drain]\nmode = "hard"\n')
    assert loaded(file) == Settings(Server(http_port=9000), Drain(mode="hard"))


def test_an_empty_file_says_nothing(file: Path) -> None:
    file.write_text("")
    assert loaded(file) == Settings()


def test_variables_are_texts_and_become_what_the_key_is() -> None:
    environment = {
        "HEADRACE_SERVER_HOST": "0.0.0.0",
        "HEADRACE_SERVER_HTTP_PORT": "9000",
        "HEADRACE_SERVER_SECURE": "true",
        "HEADRACE_DRAIN_DELAY_S": "2.5",
        "PATH": "/bin",
    }
    expected = Settings(Server("0.0.0.0", 9000, True), Drain(2.5))
    assert loaded(environment=environment) == expected


@pytest.mark.parametrize("text", ["1", "true", "True"])
def test_yes_in_a_variable(text: str) -> None:
    assert loaded(environment={"HEADRACE_SERVER_SECURE": text}).server.secure


def test_later_sources_win_key_by_key(file: Path) -> None:
    file.write_text('[server]\nhost = "file"\nhttp_port = 1\n[drain]\ndelay_s = 1\n')
    effective = loaded(
        file,
        {"HEADRACE_SERVER_HTTP_PORT": "2", "HEADRACE_DRAIN_DELAY_S": "2"},
        {"drain": {"delay_s": 3.0}},
    )
    assert effective == Settings(Server("file", 2), Drain(3.0))


def test_settings_cannot_be_changed_later() -> None:
    with pytest.raises(AttributeError):
        loaded().server.http_port = 1  # type: ignore[misc]


def test_every_section_lists_its_keys() -> None:
    assert known_keys(Settings) == {
        "server": ["host", "http_port", "secure"],
        "drain": ["delay_s", "mode"],
    }


# -- complaints -----------------------------------------------------------------------------------


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "none.toml"
    assert complaint(file=missing) == f"{missing}: No such file or directory"


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    assert complaint(file=tmp_path) == f"{tmp_path}: Is a directory"


@pytest.mark.parametrize("content", [b"[server\n", b"server = \n", b"\xff\xfe", b"a = 1\na = 2\n"])
def test_what_is_not_toml_is_said_to_be_so(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    assert complaint(file=file).startswith(f"{file}: not valid TOML: ")


def test_an_unknown_section_gets_a_hint(file: Path) -> None:
    file.write_text("[sever]\n")
    assert complaint(file=file) == f"{file}: unknown section [sever]; did you mean 'server'?"


def test_a_section_like_no_other_gets_the_list(file: Path) -> None:
    file.write_text("[zzz]\n")
    assert complaint(file=file) == f"{file}: unknown section [zzz]; known: server, drain"


def test_an_unknown_key_gets_a_hint(file: Path) -> None:
    file.write_text("[server]\nhtpp_port = 1\n")
    assert complaint(file=file) == (
        f"{file}: unknown key 'htpp_port' in [server]; did you mean 'http_port'?"
    )


def test_a_key_in_the_wrong_section_is_unknown_there(file: Path) -> None:
    file.write_text("[drain]\nhttp_port = 1\n")
    assert "unknown key 'http_port' in [drain]; known: delay_s, mode" in complaint(file=file)


def test_a_key_outside_all_sections_is_unknown(file: Path) -> None:
    file.write_text("http_port = 1\n")
    assert "unknown section [http_port]" in complaint(file=file)


def test_a_section_must_be_a_section(file: Path) -> None:
    file.write_text("server = 8000\n")
    assert complaint(file=file) == f"{file}: [server] must be a section"


def test_an_unknown_variable_gets_a_hint() -> None:
    assert complaint(environment={"HEADRACE_SERVER_HTTP_PROT": "1"}) == (
        "unknown variable HEADRACE_SERVER_HTTP_PROT; did you mean 'HEADRACE_SERVER_HTTP_PORT'?"
    )


@pytest.mark.parametrize("variable", ["HEADRACE_server_http_port", "HEADRACE_SERVER"])
def test_variables_are_spelt_exactly(variable: str) -> None:
    assert f"unknown variable {variable}" in complaint(environment={variable: "1"})


# -- values that cannot be: the key, where it came from, what would be valid -----------------------


def test_a_wrong_value_in_the_file(file: Path) -> None:
    file.write_text('[server]\nhttp_port = "many"\n')
    assert complaint(file=file) == f"{file}: Expected `int`, got `str` - at `$.server.http_port`"


def test_a_wrong_value_in_a_variable(file: Path) -> None:
    file.write_text("[server]\nhttp_port = 9000\n")
    message = complaint(file=file, environment={"HEADRACE_SERVER_HTTP_PORT": "many"})
    assert message == (
        "HEADRACE_SERVER_HTTP_PORT: Expected `int`, got `str` - at `$.server.http_port`"
    )


def test_a_wrong_value_on_the_command_line() -> None:
    message = complaint(
        environment={"HEADRACE_DRAIN_DELAY_S": "1"}, overrides={"drain": {"delay_s": "long"}}
    )
    assert message == "command line: Expected `float`, got `str` - at `$.drain.delay_s`"


def test_a_choice_that_is_none() -> None:
    message = complaint(environment={"HEADRACE_DRAIN_MODE": "gentle"})
    assert message == "HEADRACE_DRAIN_MODE: Invalid enum value 'gentle' - at `$.drain.mode`"


@pytest.mark.parametrize("value", ["", "8000.5", "0x1f40", "eighty"])
def test_a_number_that_is_none(value: str) -> None:
    assert "HEADRACE_SERVER_HTTP_PORT" in complaint(
        environment={"HEADRACE_SERVER_HTTP_PORT": value}
    )


@given(st.text(alphabet="ABCDEFGHIJKLMNOPQRSTUVWXYZ_", max_size=20))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_a_variable_is_used_or_complained_about(name: str) -> None:
    """A typo is never silently ignored."""
    names = {"SERVER_HOST", "SERVER_HTTP_PORT", "SERVER_SECURE", "DRAIN_DELAY_S", "DRAIN_MODE"}
    if name not in names:
        assert complaint(environment={ENV_PREFIX + name: "1"}).startswith(
            f"unknown variable {ENV_PREFIX}{name}"
        )

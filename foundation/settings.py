"""Settings from a TOML file, then ``HEADRACE_*`` variables, then the command line: read once, validated once.

The shape is a frozen struct of frozen sections that the process defines; this module only fills it. It must never
keep a global, and every complaint names the key, where it came from, and what would be valid.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

SettingsT = TypeVar("SettingsT", bound=msgspec.Struct)
Sections = dict[str, dict[str, Any]]

ENV_PREFIX = "HEADRACE_"
_SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT(_\w+)?)$|_PORT_\d+_(TCP|UDP|SCTP)(_\w+)?$")
_PATH = re.compile(r"\$\.(\w+)\.(\w+)")
"""Where in the settings msgspec found a mistake."""


class SettingsError(Exception):
    """A setting that cannot be used; the message is for the person who wrote it."""


def load(
    shape: type[SettingsT],
    *,
    file: Path | None,
    environment: Mapping[str, str],
    overrides: Sections,
) -> SettingsT:
    """The effective settings. Later sources win: file, environment, overrides."""
    known = known_keys(shape)
    from_file = {} if file is None else _from_file(file, known)
    from_environment = _from_environment(environment, known)
    merged: Sections = {section: {} for section in known}
    for source in (from_file, from_environment, overrides):
        _merge(merged, source)
    try:
        return msgspec.convert(merged, shape, strict=False)
    except msgspec.ValidationError as error:
        section, key = (_PATH.findall(str(error)) or [("", "")])[0]
        origin = "settings"
        if key in overrides.get(section, {}):
            origin = "command line"
        elif key in from_environment.get(section, {}):
            origin = _variable(section, key)
        elif key in from_file.get(section, {}):
            origin = str(file)
        raise SettingsError(f"{origin}: {error}") from None


def known_keys(shape: type[msgspec.Struct]) -> dict[str, list[str]]:
    """Every section with its keys."""
    sections: dict[str, list[str]] = {}
    for field in msgspec.structs.fields(shape):
        section = field.type
        assert isinstance(section, type)
        assert issubclass(section, msgspec.Struct), f"{field.name} is not a section"
        sections[field.name] = [one.name for one in msgspec.structs.fields(section)]
    return sections


def _merge(into: Sections, more: Sections) -> None:
    for section, values in more.items():
        into.setdefault(section, {}).update(values)


def _from_file(file: Path, known: dict[str, list[str]]) -> Sections:
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: not valid TOML: {error}") from None
    for section, values in content.items():
        if section not in known:
            raise SettingsError(f"{file}: unknown section [{section}]{_hint(section, list(known))}")
        if not isinstance(values, dict):
            raise SettingsError(f"{file}: [{section}] must be a section")
        for key in values:
            if key not in known[section]:
                raise SettingsError(
                    f"{file}: unknown key '{key}' in [{section}]{_hint(key, known[section])}"
                )
    return content


def _from_environment(environment: Mapping[str, str], known: dict[str, list[str]]) -> Sections:
    names = {
        _variable(section, key): (section, key) for section, keys in known.items() for key in keys
    }
    found: Sections = {}
    for variable, value in environment.items():
        if not variable.startswith(ENV_PREFIX):
            continue
        if variable not in names and _is_service_link(variable, value):
            continue
        if variable not in names:
            raise SettingsError(f"unknown variable {variable}{_hint(variable, list(names))}")
        section, key = names[variable]
        found.setdefault(section, {})[key] = value
    return found


def _is_service_link(variable: str, value: str) -> bool:
    """Whether Kubernetes set it, as it does in each pod for a service whose name begins with ours."""
    return bool(_SERVICE_LINK.search(variable)) or (variable.endswith("_PORT") and "://" in value)


def _variable(section: str, key: str) -> str:
    return f"{ENV_PREFIX}{section}_{key}".upper()


def _hint(word: str, candidates: list[str]) -> str:
    close = difflib.get_close_matches(word, candidates, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(candidates)}"

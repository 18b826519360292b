"""What a model repository on disk says should be served: ``<root>/<model>/<version>/model.onnx``.

Decides which folders count, which versions the policy of each model wants, and what is wrong with a
model. It must never open a model or act on what it finds, and one bad model must never hide the
others.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from backends.errors import ModelLoadError, RepositoryError
from backends.model_settings import ModelSettings, VersionSettings, read_model_settings

MODEL_FILE = "model.onnx"
SETTINGS_FILE = "model.toml"

_MODEL_NAME = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)
_NUMBER = re.compile(r"[0-9]+", re.ASCII)


class DesiredVersion(msgspec.Struct, frozen=True):
    """A version that should be served."""

    version: str
    path: Path


class DesiredModel(msgspec.Struct, frozen=True):
    """A model of which at least one version should be served. The newest version stands first."""

    name: str
    settings: ModelSettings
    versions: tuple[DesiredVersion, ...]


class Problem(msgspec.Struct, frozen=True):
    """Why a version cannot be served, or a whole model: then ``version`` is empty."""

    name: str
    version: str
    reason: str


class Desired(msgspec.Struct, frozen=True):
    """Everything that a repository asks for, by name, and what stands in the way."""

    models: tuple[DesiredModel, ...]
    problems: tuple[Problem, ...]


def scan_repository(root: Path) -> Desired:
    """Read the folders under ``root``, or ``RepositoryError`` where it is no readable folder."""
    models: list[DesiredModel] = []
    problems: list[Problem] = []
    for folder in _model_folders(root):
        model, found = _scan_model(folder)
        problems.extend(found)
        if model is not None:
            models.append(model)
    return Desired(tuple(models), tuple(problems))


def _model_folders(root: Path) -> list[Path]:
    try:
        if not root.exists():
            raise RepositoryError(f"the model repository {root} does not exist")
        if not root.is_dir():
            raise RepositoryError(f"the model repository {root} is not a folder")
        return [entry for entry in sorted(root.iterdir()) if _is_visible_folder(entry)]
    except OSError as error:
        raise RepositoryError(
            f"the model repository {root} cannot be read: {error.strerror}"
        ) from error


def _is_visible_folder(entry: Path) -> bool:
    try:
        return not entry.name.startswith(".") and entry.is_dir()
    except OSError:
        # A link into a place that may not be entered: the scan of this one model says so.
        return True


def _scan_model(folder: Path) -> tuple[DesiredModel | None, list[Problem]]:
    name = folder.name
    if _MODEL_NAME.fullmatch(name) is None:
        # surrogateescape keeps undecodable bytes of a file name; they must not reach logs and
        # replies.
        shown = name.encode("utf-8", "backslashreplace").decode()
        reason = f"the folder name {shown!r} may hold only letters, digits, '_', '.' and '-'"
        return None, [Problem(shown, "", reason)]
    try:
        settings = read_model_settings(folder / SETTINGS_FILE)
        numbers, problems = _version_numbers(folder)
    except ModelLoadError as error:
        return None, [Problem(name, "", str(error))]
    except OSError as error:
        return None, [Problem(name, "", f"{folder} cannot be read: {error.strerror}")]
    if not numbers and not problems:
        reason = f"no version folder in {folder}: expected for example 1/{MODEL_FILE}"
        return None, [Problem(name, "", reason)]

    versions: list[DesiredVersion] = []
    for number in _wanted(settings.versions, numbers):
        path = folder / str(number) / MODEL_FILE
        reason = _absence(path, number, numbers)
        if reason:
            problems.append(Problem(name, str(number), reason))
        else:
            versions.append(DesiredVersion(str(number), path))
    return (DesiredModel(name, settings, tuple(versions)) if versions else None), problems


def _version_numbers(folder: Path) -> tuple[list[int], list[Problem]]:
    """Version numbers, newest first. Folders that are no numbers are somebody else's: ignored."""
    numbers: list[int] = []
    problems: list[Problem] = []
    for entry in sorted(folder.iterdir()):
        if _NUMBER.fullmatch(entry.name) is None or not entry.is_dir():
            continue
        if entry.name.startswith("0"):
            # "01" and "1" would be two folders for one version.
            reason = f"the version folder {entry.name} begins with a zero: use plain numbers from 1"
            problems.append(Problem(folder.name, entry.name, reason))
        else:
            numbers.append(int(entry.name))
    return sorted(numbers, reverse=True), problems


def _wanted(policy: VersionSettings, numbers: list[int]) -> list[int]:
    if policy.policy == "specific":
        return sorted(policy.specific, reverse=True)
    return numbers if policy.policy == "all" else numbers[: policy.latest]


def _absence(path: Path, number: int, numbers: list[int]) -> str:
    if number not in numbers:
        there = ", ".join(map(str, numbers)) or "none"
        return f"versions.specific asks for version {number}, which is not there (found: {there})"
    try:
        return "" if path.is_file() else f"{path} is missing"
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"

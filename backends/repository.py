"""What a model repository on disk says should be served: ``<root>/<model>/<version>/model.onnx``.

Decides which folders count, which versions the policy of each model wants, what is wrong with a
model, and whether its files may still be on their way. It must never open a model or act on what it
finds, and one bad model must never hide the others.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType

import msgspec

from backends.errors import ModelLoadError, RepositoryError
from backends.fingerprint import SETTINGS_FILES, settings_fingerprint, version_fingerprint
from backends.model_settings import (
    FeaturesSettings,
    ModelSettings,
    VersionSettings,
    read_model_settings,
    read_version_features,
)
from backends.triton_config import MODEL_FILE, TritonConfig, read_triton_config

SETTINGS_FILE, TRITON_FILE = SETTINGS_FILES
VERSION_FILE = "version.toml"

_MODEL_NAME = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)
_NUMBER = re.compile(r"[0-9]+", re.ASCII)


class DesiredVersion(msgspec.Struct, frozen=True):
    """A version that should be served."""

    version: str
    path: Path
    """The model file, in the version's folder."""
    fingerprint: str
    """The state of the version's files and of its model's settings; equal texts, equal states."""
    features: FeaturesSettings | None = None
    """Of its ``version.toml``; None: those of its model."""


class DesiredModel(msgspec.Struct, frozen=True):
    """A model of which at least one version should be served. The newest version stands first."""

    name: str
    settings: ModelSettings
    versions: tuple[DesiredVersion, ...]
    triton: TritonConfig | None = None
    """Its ``config.pbtxt``; ``settings`` holds already what it has in common with ``model.toml``."""
    settings_fingerprint: str = ""

    def find(self, version: str) -> DesiredVersion | None:
        """The version of this number, where it should be served."""
        return next((one for one in self.versions if one.version == version), None)


class Problem(msgspec.Struct, frozen=True):
    """Why a version cannot be served, or a whole model: then ``version`` is empty."""

    name: str
    version: str
    reason: str
    fingerprint: str = ""
    """Of the version that was tried; empty when it was not even tried."""


class Desired(msgspec.Struct, frozen=True):
    """Everything that a repository asks for, by name, and what stands in the way."""

    models: tuple[DesiredModel, ...]
    problems: tuple[Problem, ...]

    def find(self, name: str) -> DesiredModel | None:
        """The model of this name, where anything of it should be served."""
        return next((model for model in self.models if model.name == name), None)

    @property
    def names(self) -> frozenset[str]:
        """Every model in the repository, the bad ones included."""
        return frozenset(
            [model.name for model in self.models] + [problem.name for problem in self.problems]
        )

    def with_model(self, name: str, model: DesiredModel | None, problems: list[Problem]) -> Desired:
        """The same but for one model, of which ``scan_model`` found this."""
        models = [one for one in self.models if one.name != name]
        if model is not None:
            models.append(model)
        models.sort(key=lambda one: one.name)
        others = [one for one in self.problems if one.name != name]
        return Desired(tuple(models), (*others, *problems))


def is_settled(before: DesiredVersion | None, now: DesiredVersion) -> bool:
    """Were the files the same at two looks in a row? While they are copied in, they are not.

    A copy that makes no progress between two looks goes unnoticed here; a load of the half of it
    fails then, and comes again when the files change.
    """
    return before is not None and before.fingerprint == now.fingerprint


def scan_repository(
    root: Path,
    *,
    before: Desired | None = None,
    versions: Mapping[str, Collection[int]] = MappingProxyType({}),
) -> Desired:
    """Read the folders under ``root``, or ``RepositoryError`` where it is no readable folder.

    Of the models in ``versions`` these are wanted, whatever their policy says.

    Settings whose files are as they were at the look ``before`` are not parsed again.
    """
    models: list[DesiredModel] = []
    problems: list[Problem] = []
    known = {model.name: model for model in before.models} if before is not None else {}
    for folder in _model_folders(root):
        model, found = _scan_model(
            folder, known.get(folder.name), versions=versions.get(folder.name)
        )
        problems.extend(found)
        if model is not None:
            models.append(model)
    return Desired(tuple(models), tuple(problems))


def scan_model(
    root: Path, name: str, *, versions: Collection[int] | None = None
) -> tuple[DesiredModel | None, list[Problem]]:
    """What ``scan_repository`` would find of one model; None and no problem: it is not there.

    With ``versions`` these are wanted, whatever the policy says. ``name`` may be any text, from
    anywhere. ``RepositoryError`` where ``root`` is no readable folder.
    """
    for folder in _model_folders(root):
        if folder.name == name:
            return _scan_model(folder, versions=versions)
    return None, []


def existing_versions(root: Path, name: str) -> list[int]:
    """The numbers of a model's version folders, newest first, whatever its policy wants; empty for no such model.

    Raises ``RepositoryError`` where ``root`` is no readable folder.
    """
    for folder in _model_folders(root):
        if folder.name == name:
            try:
                return _version_numbers(folder)[0]
            except OSError:
                return []
    return []


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


def _scan_model(
    folder: Path, before: DesiredModel | None = None, *, versions: Collection[int] | None = None
) -> tuple[DesiredModel | None, list[Problem]]:
    name = folder.name
    if _MODEL_NAME.fullmatch(name) is None:
        # surrogateescape keeps undecodable bytes of a file name; they must not reach logs and
        # replies.
        shown = name.encode("utf-8", "backslashreplace").decode()
        reason = f"the folder name {shown!r} may hold only letters, digits, '_', '.' and '-'"
        return None, [Problem(shown, "", reason)]
    try:
        # Before the files are read: should one change meanwhile, the next look finds a difference.
        state = settings_fingerprint(folder)
        triton, settings = _read_settings(folder, state, before)
        numbers, problems = _version_numbers(folder)
    except ModelLoadError as error:
        return None, [Problem(name, "", str(error))]
    except OSError as error:
        return None, [Problem(name, "", f"{folder} cannot be read: {error.strerror}")]
    file_name = MODEL_FILE if triton is None else triton.model_file
    if not numbers and not problems:
        reason = f"no version folder in {folder}: expected for example 1/{file_name}"
        return None, [Problem(name, "", reason)]

    found: list[DesiredVersion] = []
    wanted = _wanted(settings.versions, numbers)
    if versions is not None:
        wanted = sorted(set(versions), reverse=True)
    for number in wanted:
        path = folder / str(number) / file_name
        try:
            _refuse_absence(path, number, numbers)
            fingerprint = version_fingerprint(path.parent, state)
            features = read_version_features(path.parent / VERSION_FILE)
        except ModelLoadError as error:
            problems.append(Problem(name, str(number), str(error)))
        except OSError as error:
            reason = f"{path} cannot be read: {error.strerror}"
            problems.append(Problem(name, str(number), reason))
        else:
            found.append(DesiredVersion(str(number), path, fingerprint, features))
    if not found:
        return None, problems
    return DesiredModel(name, settings, tuple(found), triton, state), problems


def _read_settings(
    folder: Path, state: str, before: DesiredModel | None
) -> tuple[TritonConfig | None, ModelSettings]:
    if before is not None and before.settings_fingerprint == state:
        return before.triton, before.settings
    triton = read_triton_config(folder / TRITON_FILE, model=folder.name)
    below = None if triton is None else triton.sections
    return triton, read_model_settings(folder / SETTINGS_FILE, below)


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


def _refuse_absence(path: Path, number: int, numbers: list[int]) -> None:
    if number not in numbers:
        there = ", ".join(map(str, numbers)) or "none"
        raise ModelLoadError(f"version {number} is wanted, but not there (found: {there})")
    if not path.is_file():
        raise ModelLoadError(f"{path} is missing")

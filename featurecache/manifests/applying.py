"""A file of definitions, compiled into a folder that loaders and gateways read.

Decides what stands in the folder: ``manifest.json``, and a copy of the file for its on-demand features, under a name
that holds its digest, so that a gateway never runs other code than the manifest means. It must never leave a manifest
there that names a file which is not yet complete.
"""

from __future__ import annotations

import hashlib
import linecache
import sys
import traceback
from pathlib import Path
from types import ModuleType

import msgspec

from featurecache.errors import DefinitionError
from featurecache.manifests.compiling import compile_manifest
from featurecache.manifests.evolution import follow
from featurecache.manifests.files import replace_file
from featurecache.manifests.manifest import (
    MAX_MANIFEST_BYTES,
    Manifest,
    decode_manifest,
    encode_manifest,
)
from featurecache.manifests.trying import try_functions

MANIFEST_NAME = "manifest.json"
MAX_CODE_BYTES = 4 * 1024 * 1024
_MODULE = "headrace_definitions"


class Applied(msgspec.Struct, frozen=True):
    """What applying did, or would do."""

    manifest: Manifest
    changes: list[str]
    """In sentences; empty: nothing changed."""
    path: Path
    """Of the manifest."""
    notes: list[str] = []
    """About on-demand features that could not be checked."""


def apply_definitions(
    file: Path, folder: Path, *, force: bool = False, dry_run: bool = False
) -> Applied:
    """Compile ``file``, compare it with what ``folder`` has, and write both there; ``dry_run`` writes nothing.

    Raises ``DefinitionError``: the file cannot be run, its definitions clash, do not follow those that are applied
    (``force`` takes these all the same), or have functions that a gateway could not run.
    """
    code, new = compile_file(file)
    path = folder / MANIFEST_NAME
    manifest, changes = follow(read_manifest(path) if path.exists() else None, new, force=force)
    notes = try_functions(file, code, manifest) if changes else []
    if changes and not dry_run:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if manifest.code:
                replace_file(folder / manifest.code, code)
            replace_file(path, encode_manifest(manifest))
        except OSError as error:
            raise DefinitionError(f"{folder}: {error.strerror or error}") from None
    return Applied(manifest, changes, path, notes)


def compile_file(file: Path) -> tuple[bytes, Manifest]:
    """The file's content and its manifest, not compared with any other. Runs the file."""
    try:
        code = file.read_bytes()
    except OSError as error:
        raise DefinitionError(f"{file}: {error.strerror or error}") from None
    if len(code) > MAX_CODE_BYTES:
        raise DefinitionError(
            f"{file}: {len(code)} bytes; definitions have at most {MAX_CODE_BYTES}"
        )
    module = _run(file, code)
    try:
        manifest = compile_manifest(vars(module).values())
    except DefinitionError as error:
        raise DefinitionError(f"{file}: {error}") from None
    if manifest.on_demand:
        digest = hashlib.sha256(code).hexdigest()
        manifest = msgspec.structs.replace(
            manifest, code=f"definitions-{digest[:12]}.py", code_digest=digest
        )
    return code, manifest


def read_manifest(path: Path) -> Manifest:
    """From its file, or from the folder that has it. Raises ``DefinitionError``."""
    # Without a folder the path may be either; manifests end in .json.
    folder = path.parent if path.suffix == ".json" and not path.is_dir() else path
    if path.is_dir():
        path /= MANIFEST_NAME
    try:
        with path.open("rb") as file:
            text = file.read(MAX_MANIFEST_BYTES + 1)
    except FileNotFoundError:
        raise DefinitionError(
            f"no manifest in {folder}/; make it with `headrace features apply definitions.py --to {folder}`, "
            "or name another with --manifest"
        ) from None
    except OSError as error:
        raise DefinitionError(f"{path}: {error.strerror or error}") from None
    return decode_manifest(text, str(path))


def _run(file: Path, code: bytes) -> ModuleType:
    """As a module of its own, its folder in front of the search path so that it may import its neighbours."""
    name = str(file)
    if b"\0" in code:  # Pythons differ in what they say of it
        raise DefinitionError(f"{name} is no Python text (it has NUL bytes)")
    module = ModuleType(_MODULE)
    module.__file__ = name
    folder = str(file.resolve().parent)
    sys.path.insert(0, folder)
    sys.modules[_MODULE] = module
    try:
        exec(compile(code, name, "exec"), vars(module))  # noqa: S102  definitions are code that its user wrote
    except SyntaxError as error:
        if error.filename is None or not error.lineno:  # NUL bytes, or no UTF-8
            raise DefinitionError(f"{name} is no Python text ({error.msg})") from None
        raise DefinitionError(f"{error.filename}:{error.lineno}: {error.msg}") from None
    except ValueError as error:
        raise DefinitionError(f"{_place(error, name)}: {error}") from None
    except (Exception, SystemExit) as error:  # noqa: BLE001  whatever the file raises is its own mistake
        kind = "" if isinstance(error, DefinitionError) else f"{type(error).__name__}: "
        raise DefinitionError(f"{_place(error, name)}: {kind}{error}") from None
    finally:
        sys.modules.pop(_MODULE, None)
        sys.path.remove(folder)
        linecache.checkcache(name)
    return module


def _place(error: BaseException, name: str) -> str:
    """Where in the file, or in what it called last of its own."""
    lines = [
        one.lineno for one in traceback.extract_tb(error.__traceback__) if one.filename == name
    ]
    return f"{name}:{lines[-1]}" if lines else name

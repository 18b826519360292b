"""Reads a Dockerfile and a .dockerignore, as far as ours use them.

It decides what an instruction is and which file an ignore list lets through. It must never guess: what it does not know
is an error, so that a new construct in the Dockerfile is first taught here.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

_KNOWN = {
    "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "RUN", "STOPSIGNAL", "USER",
    "WORKDIR",
}  # fmt: skip


class DockerfileError(ValueError):
    """A line that is not understood."""


@dataclass(frozen=True)
class Instruction:
    """One instruction: its name in capitals, its ``--flags`` and the rest of the line."""

    name: str
    flags: dict[str, str]
    rest: str

    @property
    def words(self) -> list[str]:
        """The rest as words; the JSON form and the shell form read the same."""
        if self.rest.startswith("["):
            return [str(word) for word in json.loads(self.rest)]
        return shlex.split(self.rest)


@dataclass(frozen=True)
class Stage:
    """One FROM and what follows it."""

    base: str
    name: str
    instructions: list[Instruction] = field(default_factory=list)

    def all(self, name: str) -> list[Instruction]:
        return [instruction for instruction in self.instructions if instruction.name == name]

    def last(self, name: str) -> Instruction:
        """The one that counts where a later one replaces an earlier one. Raises ``DockerfileError``."""
        found = self.all(name)
        if not found:
            raise DockerfileError(f"stage {self.name} has no {name}")
        return found[-1]

    def health_command(self) -> list[str]:
        """What HEALTHCHECK runs, in its JSON form."""
        kind, _, command = self.last("HEALTHCHECK").rest.partition(" ")
        if kind != "CMD" or not command.startswith("["):
            raise DockerfileError("HEALTHCHECK wants CMD and a list: slim images promise no shell")
        return Instruction("CMD", {}, command).words


def read_stages(text: str) -> dict[str, Stage]:
    """The stages by name, in their order. Raises ``DockerfileError``."""
    stages: dict[str, Stage] = {}
    stage: Stage | None = None
    for line in _logical_lines(text):
        instruction = _instruction(line)
        if instruction.name == "FROM":
            words = instruction.words
            if len(words) != 3 or words[1].upper() != "AS":
                raise DockerfileError(f"every stage has a name: {line}")
            stage = Stage(base=words[0], name=words[2])
            stages[stage.name] = stage
        elif stage is None:
            raise DockerfileError(f"before the first FROM: {line}")
        else:
            stage.instructions.append(instruction)
    return stages


def is_ignored(path: str, patterns: Sequence[str]) -> bool:
    """Whether ``.dockerignore`` keeps a file or folder (from the root, ``a/b``) back: the last match decides."""
    ignored = False
    for pattern in patterns:
        bare = pattern.removeprefix("!")
        if _matches(path, bare):
            ignored = pattern == bare
    return ignored


def ignore_patterns(text: str) -> list[str]:
    """The patterns of a ``.dockerignore``, in their order."""
    lines = (line.strip() for line in text.splitlines())
    return [line.rstrip("/") for line in lines if line and not line.startswith("#")]


def _matches(path: str, pattern: str) -> bool:
    """A pattern also covers what lies below the folder that it names."""
    parts = path.split("/")
    heads = ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]
    if pattern.startswith("**/"):
        return any(fnmatchcase(part, pattern.removeprefix("**/")) for part in parts)
    if "**" in pattern:
        raise DockerfileError(f"not understood in .dockerignore: {pattern}")
    return any(
        head.count("/") == pattern.count("/") and fnmatchcase(head, pattern) for head in heads
    )


def _logical_lines(text: str) -> list[str]:
    lines: list[str] = []
    continued = False
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        piece = line.strip().removesuffix("\\").strip()
        if continued:
            lines[-1] += " " + piece
        else:
            lines.append(piece)
        continued = line.rstrip().endswith("\\")
    return lines


def _instruction(line: str) -> Instruction:
    name, _, rest = line.partition(" ")
    if name not in _KNOWN:
        raise DockerfileError(f"not understood: {line}")
    flags: dict[str, str] = {}
    rest = rest.strip()
    while rest.startswith("--"):
        flag, _, rest = rest.partition(" ")
        key, _, value = flag.removeprefix("--").partition("=")
        flags[key] = value
        rest = rest.strip()
    return Instruction(name, flags, rest)

"""Protobuf's text format, read into a message and into a list of what stood there.

Decides what counts as well-formed and how a slip of the pen is explained. It must never know what a
field means.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, NoReturn

import msgspec

from backends.errors import ModelLoadError

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from google.protobuf.text_format import Tokenizer

MAX_DEPTH = 32
_LONGEST_PROBLEM = 300
_LIKE_ENOUGH = 0.87
"""Alike enough to be a slip of the pen; no two fields of Triton's own config are."""

_OWN_POSITION = re.compile(r"^\d+:\d+ : ")


class Outline(msgspec.Struct, frozen=True):
    """What stands in a text, by dotted path, each path once and in the order of the text."""

    written: tuple[str, ...]
    """Every field down to the first that nobody reads."""
    ignored: tuple[str, ...]
    """Those that nobody reads, with a suggestion where one looks misspelt."""


def read_outline(text: str, message: Message, read: frozenset[str], *, source: str) -> Outline:
    """Fill ``message`` with the fields of ``text`` whose paths are in ``read``; list the others.

    Raises ``ModelLoadError`` with line and column when the text is malformed or a value does not
    fit its field.
    """
    from google.protobuf import text_format  # costs some milliseconds that most starts can save

    lines = text.split("\n")
    try:
        outline = _Reader(text_format.Tokenizer(lines), read).outline()
        text_format.Parse(text, message, allow_unknown_field=True)
    except text_format.ParseError as error:
        line, column = error.GetLine() or 1, error.GetColumn() or 1
        problem = _OWN_POSITION.sub("", str(error)).removeprefix(f"'{lines[line - 1]}': ")
        raise ModelLoadError(
            f"{source}: line {line}, column {column}: {problem[:_LONGEST_PROBLEM]}"
        ) from error
    return outline


class _Reader:
    """Walks through a text once. ``text_format.Parse`` drops what it does not know, and says not what."""

    def __init__(self, tokens: Tokenizer, read: frozenset[str]) -> None:
        self._tokens = tokens
        self._read = read
        self._groups = {prefix for path in read for prefix in _prefixes(path)}
        self._written: dict[str, None] = {}
        self._ignored: dict[str, None] = {}

    def outline(self) -> Outline:
        self._fields("", "", 0)
        return Outline(tuple(self._written), tuple(map(self._with_suggestion, self._ignored)))

    def _fields(self, path: str | None, closing: str, depth: int) -> None:
        """Up to ``closing``, or the end of the text. Without a ``path`` nothing is noted down."""
        tokens = self._tokens
        if depth > MAX_DEPTH:
            self._refuse(f"nested deeper than {MAX_DEPTH} levels")
        while not (closing and tokens.TryConsume(closing)):
            if tokens.AtEnd():
                if closing:
                    self._refuse(f'expected "{closing}"')
                return
            self._value(self._note(path, tokens.ConsumeIdentifier()), depth)
            if not tokens.TryConsume(","):
                tokens.TryConsume(";")

    def _note(self, path: str | None, name: str) -> str | None:
        """The path of this field while somebody reads inside it."""
        if path is None:
            return None
        path = f"{path}.{name}" if path else name
        self._written[path] = None
        if path in self._groups:
            return path
        if path not in self._read:
            self._ignored[path] = None
        return None

    def _value(self, path: str | None, depth: int) -> None:
        tokens = self._tokens
        has_colon = tokens.TryConsume(":")
        if not tokens.TryConsume("["):
            self._element(path, depth, scalar=has_colon)
        elif not tokens.TryConsume("]"):
            self._element(path, depth, scalar=has_colon)
            while not tokens.TryConsume("]"):
                tokens.Consume(",")
                self._element(path, depth, scalar=has_colon)

    def _element(self, path: str | None, depth: int, *, scalar: bool) -> None:
        tokens = self._tokens
        if tokens.TryConsume("{"):
            self._fields(path, "}", depth + 1)
        elif tokens.TryConsume("<"):
            self._fields(path, ">", depth + 1)
        elif not scalar:
            self._refuse('expected ":" or "{"')
        elif not (
            tokens.TryConsumeByteString()
            or tokens.TryConsumeIdentifier()
            or tokens.TryConsumeInteger()
            or tokens.TryConsumeFloat()
        ):
            self._refuse("expected a value")

    def _refuse(self, problem: str) -> NoReturn:
        raise self._tokens.ParseError(problem)  # type: ignore[arg-type]  # wrong in protobuf's stubs

    def _with_suggestion(self, path: str) -> str:
        group, _, name = path.rpartition(".")
        known = (one.rpartition(".") for one in self._read | self._groups)
        siblings = [name for inside, _, name in known if inside == group]
        near = difflib.get_close_matches(name, siblings, n=1, cutoff=_LIKE_ENOUGH)
        return f"{path} (perhaps meant as {near[0]})" if near else path


def _prefixes(path: str) -> list[str]:
    names = path.split(".")
    return [".".join(names[:end]) for end in range(1, len(names))]

"""Compiles each ``protos/*.proto`` into a ``.binpb`` (a FileDescriptorSet) and a ``.pyi`` (types).

The types are written here and not by protoc, whose own say neither which fields are read-only nor
what a oneof may hold, and do not pass a strict type checker. Run by ``make protos``; a test
compares the outputs with what is committed.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

PROTOS = Path(__file__).resolve().parent.parent / "protos"

_SCALARS = {
    FieldDescriptorProto.TYPE_DOUBLE: "float",
    FieldDescriptorProto.TYPE_FLOAT: "float",
    FieldDescriptorProto.TYPE_INT32: "int",
    FieldDescriptorProto.TYPE_INT64: "int",
    FieldDescriptorProto.TYPE_UINT32: "int",
    FieldDescriptorProto.TYPE_UINT64: "int",
    FieldDescriptorProto.TYPE_BOOL: "bool",
    FieldDescriptorProto.TYPE_STRING: "str",
    FieldDescriptorProto.TYPE_BYTES: "bytes",
    FieldDescriptorProto.TYPE_ENUM: "int",
}

_IMPORTS = {
    "collections.abc": ("Iterable", "Mapping"),
    "typing": ("ClassVar", "Final", "Literal"),
    "google.protobuf.internal.containers": (
        "MessageMap",
        "RepeatedCompositeFieldContainer",
        "RepeatedScalarFieldContainer",
        "ScalarMap",
    ),
    "google.protobuf.internal.enum_type_wrapper": ("EnumTypeWrapper",),
    "google.protobuf.message": ("Message",),
    "protos.loader": ("Language", "Method"),
}


def generate(folder: Path = PROTOS) -> dict[str, bytes]:
    """The contents of every generated file, by file name."""
    outputs: dict[str, bytes] = {}
    for source in sorted(folder.glob("*.proto")):
        compiled = _compile(source)
        (file,) = FileDescriptorSet.FromString(compiled).file
        outputs[f"{source.stem}.binpb"] = compiled
        outputs[f"{source.stem}.pyi"] = typing_of(file, source.stem).encode()
    return outputs


def typing_of(file: FileDescriptorProto, name: str) -> str:
    """The ``.pyi`` of one language, as text."""
    types = _Types(file.package)
    blocks = [["LANGUAGE: Final[Language]"]]
    blocks += [list(_enum(enum, "EnumTypeWrapper")) for enum in file.enum_type]
    blocks += [types.message(message) for message in file.message_type]
    blocks += [[f"{service.name}: Final[dict[str, Method]]"] for service in file.service]
    body = "\n\n".join("\n".join(block) for block in blocks)
    title = f'"""Types of ``{name}.py``, written by ``make protos``. Edit ``{name}.proto``."""'
    return "\n\n".join((title, "\n".join(_imports(body)), body)) + "\n"


def _imports(body: str) -> Iterator[str]:
    words = set(re.findall(r"\w+", body))
    for module, names in _IMPORTS.items():
        used = [name for name in names if name in words]
        if used:
            yield f"from {module} import {', '.join(used)}"


_Maps = dict[str, DescriptorProto]
"""A message's map fields: the full name of the entry's type, and the type."""


class _Types:
    """Writes the classes of one file."""

    def __init__(self, package: str) -> None:
        self._prefix = f".{package}."

    def message(self, message: DescriptorProto, outer: str = "") -> list[str]:
        path = f"{outer}{message.name}"
        entries = [nested for nested in message.nested_type if nested.options.map_entry]
        maps = {f"{self._prefix}{path}.{entry.name}": entry for entry in entries}
        body: list[str] = []
        for enum in message.enum_type:
            body += _enum(enum, "ClassVar[EnumTypeWrapper]")
        for nested in message.nested_type:
            if not nested.options.map_entry:
                body += [*self.message(nested, f"{path}."), ""]
        body += self._fields(message, maps)
        body += self._constructor(message, maps)
        body += _presence(message)
        indented = (f"    {line}" if line else "" for line in body)
        return [f"class {message.name}(Message):", *indented]

    def _fields(self, message: DescriptorProto, maps: _Maps) -> Iterator[str]:
        for field in message.field:
            if _is_plain(field):
                yield f"{field.name}: {_SCALARS[field.type]}"
            else:
                yield "@property"
                yield f"def {field.name}(self) -> {self._held(field, maps)}: ..."

    def _constructor(self, message: DescriptorProto, maps: _Maps) -> Iterator[str]:
        if not message.field:
            yield "def __init__(self) -> None: ..."
            return
        yield "def __init__("
        yield "    self,"
        yield "    *,"
        for field in message.field:
            yield f"    {field.name}: {self._given(field, maps)} | None = None,"
        yield ") -> None: ..."

    def _held(self, field: FieldDescriptorProto, maps: _Maps) -> str:
        if field.type_name in maps:
            key, value = maps[field.type_name].field
            container = "ScalarMap" if value.type in _SCALARS else "MessageMap"
            return f"{container}[{self._element(key)}, {self._element(value)}]"
        if field.label != FieldDescriptorProto.LABEL_REPEATED:
            return self._element(field)
        kind = "Scalar" if field.type in _SCALARS else "Composite"
        return f"Repeated{kind}FieldContainer[{self._element(field)}]"

    def _given(self, field: FieldDescriptorProto, maps: _Maps) -> str:
        if field.type_name in maps:
            key, value = maps[field.type_name].field
            return f"Mapping[{self._element(key)}, {self._element(value)}]"
        repeated = field.label == FieldDescriptorProto.LABEL_REPEATED
        return f"Iterable[{self._element(field)}]" if repeated else self._element(field)

    def _element(self, field: FieldDescriptorProto) -> str:
        return _SCALARS.get(field.type) or field.type_name.removeprefix(self._prefix)


def _enum(enum: EnumDescriptorProto, annotation: str) -> Iterator[str]:
    yield f"{enum.name}: {annotation}"
    for value in enum.value:
        yield f"{value.name}: Final = {value.number}"


def _is_plain(field: FieldDescriptorProto) -> bool:
    """Can the field be assigned to? Only single scalars can."""
    return field.label != FieldDescriptorProto.LABEL_REPEATED and field.type in _SCALARS


def _presence(message: DescriptorProto) -> Iterator[str]:
    """``HasField`` and ``WhichOneof``, which take only the names that they can answer for."""
    repeated = FieldDescriptorProto.LABEL_REPEATED
    tracked = [
        field
        for field in message.field
        if field.HasField("oneof_index") or (field.label != repeated and field.type not in _SCALARS)
    ]
    if tracked:
        yield "def HasField("
        yield f"    self, field_name: {_literal(field.name for field in tracked)}"
        yield ") -> bool: ..."
    if message.oneof_decl:
        yield "def WhichOneof("
        yield f"    self, oneof_group: {_literal(oneof.name for oneof in message.oneof_decl)}"
        members = _literal(f.name for f in message.field if f.HasField("oneof_index"))
        yield f") -> {members} | None: ..."


def _literal(names: Iterable[str]) -> str:
    return "Literal[" + ", ".join(f'"{name}"' for name in names) + "]"


def _compile(source: Path) -> bytes:
    from grpc_tools import protoc  # needed here only: who reads the outputs needs no compiler

    with tempfile.TemporaryDirectory() as folder:
        compiled = Path(folder, "compiled.binpb")
        if protoc.main(
            ["protoc", f"-I{source.parent}", f"--descriptor_set_out={compiled}", source.name]
        ):
            raise SystemExit(f"{source.name} does not compile")
        return compiled.read_bytes()


def main() -> None:
    """Write what changed, and say so."""
    for name, content in generate().items():
        target = PROTOS / name
        if target.exists() and target.read_bytes() == content:
            print(f"protos/{name} is up to date")
        else:
            target.write_bytes(content)
            print(f"protos/{name} written")


if __name__ == "__main__":
    main()

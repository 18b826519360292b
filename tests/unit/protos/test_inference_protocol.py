"""Our inference protocol is the one that ``tritonclient`` speaks, and lives beside it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.descriptor_pool import Default
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet
from tritonclient.grpc import service_pb2

from protos import inference
from tests.arch.checkout import ROOT

OURS: Any = inference.ModelInferRequest.DESCRIPTOR.file
THEIRS: Any = Default()

BOTH_IN_ONE_PROCESS = """
import {first}
import {second}
from protos.inference import ModelInferRequest as Ours
from tritonclient.grpc.service_pb2 import ModelInferRequest as Theirs
ours = Ours(model_name="m", inputs=[Ours.InferInputTensor(name="x", shape=[2])])
theirs = Theirs.FromString(ours.SerializeToString())
assert Ours is not Theirs and theirs.inputs[0].shape == [2]
assert Ours.FromString(theirs.SerializeToString()) == ours
"""


def _messages(descriptors: dict[str, Descriptor]) -> list[Descriptor]:
    found = []
    for descriptor in descriptors.values():
        found += [descriptor, *_messages(descriptor.nested_types_by_name)]
    return found


def _enums() -> list[EnumDescriptor]:
    nested = [enum for message in MESSAGES for enum in message.enum_types]
    return [*OURS.enum_types_by_name.values(), *nested]


MESSAGES = _messages(OURS.message_types_by_name)
TRAVELLING = [message for message in MESSAGES if not message.GetOptions().map_entry]
ENUMS = _enums()


def _shape(field: Any) -> dict[str, object]:
    """All that decides a field's bytes and its JSON."""
    return {
        "name": field.name,
        "number": field.number,
        "type": field.type,
        "repeated": field.is_repeated,
        "packed": field.is_packed,
        "presence": field.has_presence,
        "json": field.json_name,
        "message": field.message_type.full_name if field.message_type else None,
        "enum": field.enum_type.full_name if field.enum_type else None,
        "oneof": field.containing_oneof.name if field.containing_oneof else None,
    }


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.full_name)
def test_every_field_is_the_one_that_tritonclient_knows(message: Descriptor) -> None:
    theirs = THEIRS.FindMessageTypeByName(message.full_name)
    assert message.GetOptions().map_entry == theirs.GetOptions().map_entry
    for field in message.fields:
        assert _shape(field) == _shape(theirs.fields_by_name[field.name])


@pytest.mark.parametrize("enum", ENUMS, ids=lambda enum: enum.full_name)
def test_every_enum_value_is_the_one_that_tritonclient_knows(enum: EnumDescriptor) -> None:
    theirs = THEIRS.FindEnumTypeByName(enum.full_name)
    assert {value.name: value.number for value in enum.values} == {
        value.name: value.number for value in theirs.values
    }


def test_every_call_is_the_one_that_tritonclient_makes() -> None:
    theirs = THEIRS.FindServiceByName("inference.GRPCInferenceService").methods_by_name
    for name, method in inference.GRPCInferenceService.items():
        assert method.name == name
        assert method.path == f"/inference.GRPCInferenceService/{name}"
        request = "ModelInferRequest" if name == "ModelStreamInfer" else f"{name}Request"
        assert method.request is getattr(inference, request)
        assert method.reply is getattr(inference, f"{name}Response")
        assert theirs[name].input_type.full_name == f"inference.{request}"
        assert theirs[name].output_type.full_name == f"inference.{name}Response"
        descriptor = OURS.services_by_name["GRPCInferenceService"].methods_by_name[name]
        assert descriptor.client_streaming == theirs[name].client_streaming
        assert descriptor.server_streaming == theirs[name].server_streaming


def test_the_module_names_every_message_and_value_of_the_protocol() -> None:
    for name in OURS.message_types_by_name:
        assert getattr(inference, name).DESCRIPTOR.full_name == f"inference.{name}"
    for value in OURS.enum_types_by_name["DataType"].values:
        assert getattr(inference, value.name) == value.number
    assert inference.DataType.Name(inference.TYPE_FP32) == "TYPE_FP32"
    assert inference.ModelInstanceGroup.KIND_CPU == 2


@pytest.mark.parametrize("message", TRAVELLING, ids=lambda message: message.full_name)
def test_bytes_mean_the_same_to_both(message: Descriptor) -> None:
    ours = _filled(message_factory.GetMessageClass(message))
    theirs_class = message_factory.GetMessageClass(THEIRS.FindMessageTypeByName(message.full_name))
    theirs = theirs_class.FromString(ours.SerializeToString())
    assert len(UnknownFieldSet(theirs)) == 0
    assert type(ours).FromString(theirs.SerializeToString()) == ours


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("protos.inference", "tritonclient.grpc"),
        ("tritonclient.grpc", "protos.inference"),
    ],
)
def test_both_load_in_one_process(first: str, second: str) -> None:
    program = BOTH_IN_ONE_PROCESS.format(first=first, second=second)
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_our_classes_are_not_in_the_default_pool() -> None:
    assert inference.ModelInferRequest is not service_pb2.ModelInferRequest
    assert OURS.pool is not THEIRS


def _filled(kind: type[Message]) -> Message:
    """A message with a value in every field (of a oneof, in its last)."""
    message = kind()
    for field in kind.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type and field.message_type.GetOptions().map_entry:
            value["key"].CopyFrom(_filled(type(value["key"])))
        elif field.message_type and field.is_repeated:
            value.append(_filled(message_factory.GetMessageClass(field.message_type)))
        elif field.message_type:
            value.CopyFrom(_filled(type(value)))
            value.SetInParent()
        elif field.is_repeated:
            value.extend([_scalar(field), _scalar(field)])
        else:
            setattr(message, field.name, _scalar(field))
    return message


def _scalar(field: FieldDescriptor) -> object:
    return {
        FieldDescriptor.CPPTYPE_STRING: "é" if field.type == FieldDescriptor.TYPE_STRING else b"\0",
        FieldDescriptor.CPPTYPE_FLOAT: 0.5,
        FieldDescriptor.CPPTYPE_DOUBLE: 0.5,
    }.get(field.cpp_type, 1)

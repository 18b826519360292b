"""Triton's ``config.pbtxt``, read for what it means here.

Decides which of its fields have a counterpart in ``model.toml``, which contradict this gateway, and
which are ignored and named as such. It must never open a model, and never let a field that is
ignored pass unnamed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from backends.errors import ModelLoadError
from backends.model_settings import BatchingSettings, ModelSettings, Sections
from backends.pbtxt import Outline, read_outline
from backends.signature import Signature, TensorSpec

if TYPE_CHECKING:
    from protos.inference import ModelConfig, ModelInput, ModelInstanceGroup, ModelOutput

MODEL_FILE = "model.onnx"
MAX_FILE_BYTES = 1_000_000

FIELDS_READ = frozenset(
    {
        "name",
        "platform",
        "backend",
        "default_model_filename",
        "max_batch_size",
        "version_policy.latest.num_versions",
        "version_policy.all",
        "version_policy.specific.versions",
        "input.name",
        "input.data_type",
        "input.dims",
        "output.name",
        "output.data_type",
        "output.dims",
        "dynamic_batching.max_queue_delay_microseconds",
        "dynamic_batching.priority_levels",
        "dynamic_batching.default_priority_level",
        "dynamic_batching.default_queue_policy.timeout_action",
        "dynamic_batching.default_queue_policy.default_timeout_microseconds",
        "dynamic_batching.default_queue_policy.max_queue_size",
        "instance_group.name",
        "instance_group.kind",
        "instance_group.count",
        "instance_group.gpus",
    }
)
"""By path; every other field is ignored and named."""

_REFUSED = {
    "sequence_batching": "it keeps state between requests, and Headrace keeps none",
    "ensemble_scheduling": "an ensemble has no model file of its own",
}

# Where a value of ours comes from: mistakes are named in the words of the file that holds them.
_ORIGINS = {
    "batching.max_batch_size": "max_batch_size",
    "batching.max_queue_delay_us": "dynamic_batching.max_queue_delay_microseconds",
    "deadline.default_timeout_ms": (
        "dynamic_batching.default_queue_policy.default_timeout_microseconds"
    ),
    "priority.levels": "dynamic_batching.priority_levels",
    "priority": "dynamic_batching.default_priority_level",
    "priority.default": "dynamic_batching.default_priority_level",
    "versions.latest": "version_policy.latest.num_versions",
    "versions.specific": "version_policy.specific.versions",
    "versions": "version_policy.specific.versions",
    "execution.instances": "instance_group.count",
    "onnxruntime.device_id": "instance_group.gpus",
}

_DATATYPES = {"TYPE_STRING": "BYTES"}

_FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", re.ASCII)

Declared: TypeAlias = "ModelInput | ModelOutput"


class DeclaredTensor(msgspec.Struct, frozen=True):
    """An input or output as the file declares it."""

    name: str
    datatype: str
    """In the protocol's words; empty when the file does not say."""
    dims: tuple[int, ...] | None
    """Without the batch dimension when ``max_batch_size`` is above 0; None when the file does not
    say, or says it of a shape that differs from the model's.
    """


class TritonConfig(msgspec.Struct, frozen=True):
    """What one ``config.pbtxt`` asks for."""

    sections: Sections
    """In the words of ``model.toml``, whose own keys win."""
    max_batch_size: int = 0
    inputs: tuple[DeclaredTensor, ...] = ()
    outputs: tuple[DeclaredTensor, ...] = ()
    model_file: str = MODEL_FILE
    """The name of the file in each version folder."""
    ignored: tuple[str, ...] = ()
    """Fields that have no effect here, with a word on why where that helps."""


def read_triton_config(path: Path, *, model: str) -> TritonConfig | None:
    """The config at ``path`` of the model in the folder ``model``; None when there is no file.

    Raises ``ModelLoadError`` naming the file, the place and what would be right.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise ModelLoadError(f"{path}: larger than {MAX_FILE_BYTES} bytes")
        return parse_triton_config(content.decode("utf-8"), model=model, source=str(path))
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise ModelLoadError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise ModelLoadError(f"{path}: cannot be read: {error.strerror}") from error


def parse_triton_config(text: str, *, model: str, source: str) -> TritonConfig:
    """The config that ``text`` writes; ``source`` names it in the ``ModelLoadError``."""
    from protos.inference import ModelConfig  # who has no config.pbtxt pays for no protobuf

    config = ModelConfig()
    outline = read_outline(text, config, FIELDS_READ, source=source)
    _refuse_foreign(config, outline, model, source)
    ignored = [*outline.ignored, *_unused(config)]
    sections = {
        "batching": dict(_batching(config, outline)),
        "deadline": dict(_deadline(config)),
        "priority": dict(_priority(config)),
        "versions": dict(_versions(config)),
        "execution": dict(_execution(config)),
        "onnxruntime": dict(_onnxruntime(config)),
    }
    sections = {section: values for section, values in sections.items() if values}
    try:
        msgspec.convert(sections, ModelSettings)
    except msgspec.ValidationError as error:
        raise ModelLoadError(f"{source}: {_explain(str(error))}") from error
    return TritonConfig(
        sections=sections,
        max_batch_size=config.max_batch_size,
        inputs=tuple(_declared(tensor, outline.ignored, "input") for tensor in config.input),
        outputs=tuple(_declared(tensor, outline.ignored, "output") for tensor in config.output),
        model_file=config.default_model_filename or MODEL_FILE,
        ignored=tuple(ignored),
    )


def check_signature(config: TritonConfig, signature: Signature) -> tuple[str, ...]:
    """Refuse, by ``ModelLoadError``, a config that is about another model; what else is ignored.

    Tensors that the config leaves out are the model's own affair.
    """
    ignored: list[str] = []
    for role, declared, specs in (
        ("input", config.inputs, signature.inputs),
        ("output", config.outputs, signature.outputs),
    ):
        by_name = {spec.name: spec for spec in specs}
        for tensor in declared:
            if tensor.name not in by_name:
                have = ", ".join(map(repr, by_name)) or "none"
                raise ModelLoadError(
                    f"config.pbtxt: the model has no {role} {tensor.name!r}; it has {have}"
                )
            spec = by_name[tensor.name]
            _check_tensor(config, tensor, spec, role)
            if _narrower(config, tensor, spec):
                ignored.append(f"{role}.dims of {tensor.name!r} (the model takes other sizes too)")
    return tuple(ignored)


def _check_tensor(
    config: TritonConfig, tensor: DeclaredTensor, spec: TensorSpec, role: str
) -> None:
    where = f"config.pbtxt: {role} {tensor.name!r}"
    if tensor.datatype and tensor.datatype != spec.datatype:
        raise ModelLoadError(
            f"{where} has datatype {tensor.datatype} there, but {spec.datatype} in the model"
        )
    if tensor.dims is None:
        return
    batched = config.max_batch_size > 0
    sizes = spec.shape[1:] if batched else spec.shape
    fits = len(sizes) == len(tensor.dims) and not (batched and not spec.shape)
    pairs = zip(sizes, tensor.dims, strict=False)
    if fits and all(size in (-1, dim) for size, dim in pairs):
        return
    reason = f"{where} has dims {list(tensor.dims)} there, but the model has {list(spec.shape)}"
    if batched:
        reason += "; with max_batch_size above 0, dims leave the first dimension out"
    raise ModelLoadError(reason)


def _narrower(config: TritonConfig, tensor: DeclaredTensor, spec: TensorSpec) -> bool:
    """Does the config fix a size that the model leaves open? Requests are checked by the model's."""
    sizes = spec.shape[1:] if config.max_batch_size > 0 else spec.shape
    return any(size == -1 != dim for size, dim in zip(sizes, tensor.dims or (), strict=False))


def _refuse_foreign(config: ModelConfig, outline: Outline, model: str, source: str) -> None:
    if config.name and config.name != model:
        raise ModelLoadError(
            f"{source}: `name` is {config.name!r}, but the folder is {model!r}; they must be equal"
        )
    for field, value, ours in (
        ("backend", config.backend, "onnxruntime"),
        ("platform", config.platform, "onnxruntime_onnx"),
    ):
        if value and value != ours:
            raise ModelLoadError(
                f'{source}: `{field}` is {value!r}, but only "{ours}" can be served'
            )
    for field, reason in _REFUSED.items():
        if field in outline.written:
            raise ModelLoadError(f"{source}: `{field}` cannot be served: {reason}")
    if config.max_batch_size < 0:
        raise ModelLoadError(f"{source}: `max_batch_size` must be 0 or more")
    name = config.default_model_filename
    if name and _FILE_NAME.fullmatch(name) is None:
        raise ModelLoadError(
            f"{source}: `default_model_filename` must be a plain file name, not {name!r}"
        )


def _batching(config: ModelConfig, outline: Outline) -> Iterator[tuple[str, Any]]:
    if config.max_batch_size:
        yield "max_batch_size", config.max_batch_size
        if config.max_batch_size > BatchingSettings().max_queue_rows:
            yield "max_queue_rows", config.max_batch_size
    elif "max_batch_size" in outline.written:  # protobuf itself takes a written 0 for nothing
        yield "mode", "never"
    dynamic = config.dynamic_batching
    if dynamic.max_queue_delay_microseconds:
        yield "max_queue_delay_us", dynamic.max_queue_delay_microseconds
    if dynamic.default_queue_policy.max_queue_size:
        yield "max_queue_requests", dynamic.default_queue_policy.max_queue_size


def _deadline(config: ModelConfig) -> Iterator[tuple[str, Any]]:
    policy = config.dynamic_batching.default_queue_policy
    if policy.default_timeout_microseconds and policy.timeout_action == policy.REJECT:
        yield "default_timeout_ms", policy.default_timeout_microseconds / 1000


def _priority(config: ModelConfig) -> Iterator[tuple[str, Any]]:
    dynamic = config.dynamic_batching
    if dynamic.priority_levels:
        middle = (dynamic.priority_levels + 1) // 2
        yield "levels", dynamic.priority_levels
        yield "default", dynamic.default_priority_level or middle


def _versions(config: ModelConfig) -> Iterator[tuple[str, Any]]:
    policy = config.version_policy
    chosen = policy.WhichOneof("policy_choice")
    if chosen is not None:
        yield "policy", chosen
    if chosen == "latest":
        yield "latest", policy.latest.num_versions
    elif chosen == "specific":
        yield "specific", list(policy.specific.versions)


def _execution(config: ModelConfig) -> Iterator[tuple[str, Any]]:
    groups = _groups(config)
    if groups:
        yield "instances", sum(group.count or 1 for group in groups)


def _onnxruntime(config: ModelConfig) -> Iterator[tuple[str, Any]]:
    groups = _groups(config)
    if groups and groups[0].kind == groups[0].KIND_GPU:
        yield "device", "cuda"
        yield "device_id", groups[0].gpus[0] if groups[0].gpus else 0
    elif groups and groups[0].kind == groups[0].KIND_CPU:
        yield "device", "cpu"


def _groups(config: ModelConfig) -> list[ModelInstanceGroup]:
    """The groups that count: those on a GPU where there are any, since one device runs a model."""
    groups = list(config.instance_group)
    return [group for group in groups if group.kind == group.KIND_GPU] or groups


def _unused(config: ModelConfig) -> Iterator[str]:
    """Fields that are read, but whose values have no counterpart."""
    groups = _groups(config)
    if len(groups) < len(config.instance_group):
        yield "instance_group (those that are not on a GPU)"
    gpus = list(dict.fromkeys(gpu for group in groups for gpu in group.gpus))
    if groups and groups[0].kind != groups[0].KIND_GPU and gpus:
        yield "instance_group.gpus (the kind is not KIND_GPU)"
    elif len(gpus) > 1:
        yield f"instance_group.gpus (only GPU {gpus[0]} is used)"
    policy = config.dynamic_batching.default_queue_policy
    if policy.timeout_action == policy.DELAY:
        yield "dynamic_batching.default_queue_policy.timeout_action (DELAY: nothing is kept late)"
        if policy.default_timeout_microseconds:
            yield "dynamic_batching.default_queue_policy.default_timeout_microseconds"
    if config.dynamic_batching.default_priority_level and not (
        config.dynamic_batching.priority_levels
    ):
        yield "dynamic_batching.default_priority_level (priority_levels is 0)"


def _declared(tensor: Declared, ignored: tuple[str, ...], role: str) -> DeclaredTensor:
    from protos.inference import DataType

    datatype = DataType.Name(tensor.data_type) if tensor.data_type else ""
    # With a reshape, dims are what callers of Triton send, not what the model takes.
    says_dims = bool(tensor.dims) and f"{role}.reshape" not in ignored
    return DeclaredTensor(
        name=tensor.name,
        datatype=_DATATYPES.get(datatype, datatype.removeprefix("TYPE_")),
        dims=tuple(tensor.dims) if says_dims else None,
    )


def _explain(problem: str) -> str:
    """The sentence of msgspec about our key, told of the field that set it."""
    what, _, place = problem.partition(" - at `$.")
    key = re.sub(r"\[[.\d]+\]", "", place.rstrip("`"))
    if key == "deadline.default_timeout_ms":
        what = "must be at most one day"
    return f"`{_ORIGINS.get(key, key)}`: {what[:1].lower()}{what[1:]}"

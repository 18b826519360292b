"""The shapes of V2 REST bodies as JSON Schema 2020-12, for the OpenAPI document.

Decides how much of the protocol a schema promises: what every answer holds, and what a request must hold to be looked
at. It must never promise what the decoders do not keep; ``tests/e2e/test_openapi.py`` asks a real server.
"""

from __future__ import annotations

from typing import Any

from backends.signature import NUMPY_DTYPES

Schema = dict[str, Any]

WHOLE = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}
TEXT = {"type": "string"}
FLAG = {"type": "boolean"}


def ref(name: str) -> Schema:
    """A reference to one of ``schemas``."""
    return {"$ref": f"#/components/schemas/{name}"}


def record(required: str, optional: Schema | None = None, **properties: Schema) -> Schema:
    """An object; ``required`` names those of its properties that are always there."""
    made: Schema = {"type": "object", "properties": properties | (optional or {})}
    if required:
        made["required"] = required.split()
    return made


def listed(item: Schema) -> Schema:
    """An array of something."""
    return {"type": "array", "items": item}


def or_null(schema: Schema) -> Schema:
    """Requests may say null for what they might as well leave out."""
    return {"anyOf": [schema, {"type": "null"}]}


def schemas() -> dict[str, Schema]:
    """``components.schemas`` of the document."""
    return (
        _errors_and_health() | _models() | _requests() | _answers() | _repository() | _statistics()
    )


def _errors_and_health() -> dict[str, Schema]:
    return {
        "Error": {
            **record("error", error={**TEXT, "minLength": 1}),
            "description": "Every error of every path: one sentence that says what to do.",
        },
        "Live": record("live", live=FLAG),
        "Ready": record("ready", ready=FLAG, error=TEXT),
        "ModelReady": record("name ready", name=TEXT, ready=FLAG, error=TEXT),
    }


def _models() -> dict[str, Schema]:
    return {
        "Datatype": {"type": "string", "enum": list(NUMPY_DTYPES)},
        "Shape": {
            **listed({"type": "integer", "minimum": -1}),
            "description": "Extents; in a model's description -1 is any size.",
        },
        "TensorDescription": record(
            "name datatype shape", name=TEXT, datatype=ref("Datatype"), shape=ref("Shape")
        ),
        "ServerMetadata": record(
            "name version extensions", name=TEXT, version=TEXT, extensions=listed(TEXT)
        ),
        "ModelMetadata": record(
            "name versions platform inputs outputs",
            name=TEXT,
            versions=listed(TEXT),
            platform=TEXT,
            inputs=listed(ref("TensorDescription")),
            outputs=listed(ref("TensorDescription")),
        ),
        "ModelConfig": {
            **record(
                "name platform backend max_batch_size input output",
                name=TEXT,
                platform=TEXT,
                backend=TEXT,
                max_batch_size=WHOLE,
                input=listed(ref("ConfigTensor")),
                output=listed(ref("ConfigTensor")),
                instance_group=listed(record("", name=TEXT, kind=TEXT, count=WHOLE)),
                dynamic_batching=record("", max_queue_delay_microseconds=WHOLE),
            ),
            "description": "The part of Triton's ModelConfig that means something here. "
            "max_batch_size 0: rows of different requests are never mixed.",
        },
        "ConfigTensor": record(
            "name data_type dims",
            name=TEXT,
            data_type={"type": "string", "pattern": "^TYPE_[A-Z0-9]+$"},
            dims=ref("Shape"),
        ),
    }


def _requests() -> dict[str, Schema]:
    binary_size = {
        **WHOLE,
        "description": "Bytes of this tensor behind the JSON, instead of data.",
    }
    return {
        "TensorData": {
            "type": "array",
            "description": "Row-major, flat or nested as the shape says. Numbers, booleans or (BYTES) strings; "
            "the bare tokens NaN, Infinity and -Infinity are taken and given too, although JSON has no such numbers. "
            "FP16 and BF16 have no JSON form.",
            "items": {
                "anyOf": [{"type": "number"}, FLAG, TEXT, ref("TensorData")],
            },
        },
        "InferInput": record(
            "name shape datatype",
            name=TEXT,
            shape=listed({"type": "integer", "minimum": 0}),
            datatype=ref("Datatype"),
            data=or_null(ref("TensorData")),
            parameters=or_null(record("", binary_data_size=or_null(binary_size))),
        ),
        "InferRequestedOutput": record(
            "name",
            name=TEXT,
            parameters=or_null(
                record(
                    "",
                    binary_data=or_null({**FLAG, "description": "This output as bytes."}),
                    classification={"description": "Not offered: anything but 0 is refused (501)."},
                )
            ),
        ),
        "InferRequest": record(
            "inputs",
            id=or_null({**TEXT, "description": "Echoed in the answer."}),
            inputs=listed(ref("InferInput")),
            outputs=or_null(
                {
                    **listed(ref("InferRequestedOutput")),
                    "description": "What to answer with; all outputs when there is none.",
                }
            ),
            parameters=or_null(ref("InferParameters")),
        ),
        "InferParameters": _request_parameters(),
    }


def _request_parameters() -> Schema:
    return {
        **record(
            "",
            timeout=or_null(
                {
                    **WHOLE,
                    "description": "Microseconds after which the answer is of no use; 0: no deadline.",
                }
            ),
            priority=or_null(
                {**WHOLE, "description": "1 is the most urgent; 0: the model's default."}
            ),
            binary_data_output=or_null({**FLAG, "description": "Every output as bytes."}),
            sequence_id={"description": "Models keep no state: anything but 0 is refused."},
            feature_status=or_null(
                {
                    **FLAG,
                    "description": "Answer with what became of each feature, if the model has any.",
                }
            ),
        ),
        "description": "A model with features may want others besides: text, numbers or booleans.",
    }


def _answers() -> dict[str, Schema]:
    return {
        "InferOutput": record(
            "name datatype shape",
            name=TEXT,
            datatype=ref("Datatype"),
            shape=listed(WHOLE),
            data=ref("TensorData"),
            parameters=record("", binary_data_size=WHOLE),
        ),
        "InferResponse": record(
            "model_name model_version outputs",
            id=TEXT,
            model_name=TEXT,
            model_version=TEXT,
            outputs=listed(ref("InferOutput")),
            parameters={
                "type": "object",
                "description": "feature_status, where it was asked for: JSON in a string.",
                "additionalProperties": {"anyOf": [TEXT, {"type": "number"}, FLAG]},
            },
        ),
    }


def _repository() -> dict[str, Schema]:
    return {
        "IndexRequest": record("", ready={**FLAG, "description": "Only versions that answer now."}),
        "IndexEntry": record(
            "name version state reason",
            name=TEXT,
            version={**TEXT, "description": "Empty when the model has no usable version."},
            state={"type": "string", "enum": ["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]},
            reason=TEXT,
        ),
        "LoadRequest": record(
            "",
            parameters={
                "type": "object",
                "description": "None is offered: file overrides are refused.",
            },
        ),
        "UnloadRequest": record("", parameters=record("", unload_dependents=FLAG)),
    }


def _statistics() -> dict[str, Schema]:
    duration = ref("Duration")
    return {
        "Duration": record("count ns", count=WHOLE, ns=WHOLE),
        "BatchStatistics": record(
            "batch_size compute_input compute_infer compute_output",
            batch_size=WHOLE,
            compute_input=duration,
            compute_infer=duration,
            compute_output=duration,
        ),
        "VersionStatistics": record(
            "name version last_inference inference_count execution_count inference_stats batch_stats",
            name=TEXT,
            version=TEXT,
            last_inference={**WHOLE, "description": "Milliseconds since 1970; 0: never."},
            inference_count={**WHOLE, "description": "Rows."},
            execution_count={**WHOLE, "description": "Batches."},
            inference_stats={
                "type": "object",
                "required": ["success", "fail", "queue", "compute_infer"],
                "additionalProperties": duration,
            },
            batch_stats=listed(ref("BatchStatistics")),
        ),
        "ModelStatistics": record("model_stats", model_stats=listed(ref("VersionStatistics"))),
    }

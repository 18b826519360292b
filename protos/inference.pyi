"""Types of ``inference.py``, written by ``make protos``. Edit ``inference.proto``."""

from collections.abc import Iterable, Mapping
from typing import ClassVar, Final, Literal
from google.protobuf.internal.containers import MessageMap, RepeatedCompositeFieldContainer, RepeatedScalarFieldContainer
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message
from protos.loader import Language, Method

LANGUAGE: Final[Language]

DataType: EnumTypeWrapper
TYPE_INVALID: Final = 0
TYPE_BOOL: Final = 1
TYPE_UINT8: Final = 2
TYPE_UINT16: Final = 3
TYPE_UINT32: Final = 4
TYPE_UINT64: Final = 5
TYPE_INT8: Final = 6
TYPE_INT16: Final = 7
TYPE_INT32: Final = 8
TYPE_INT64: Final = 9
TYPE_FP16: Final = 10
TYPE_FP32: Final = 11
TYPE_FP64: Final = 12
TYPE_STRING: Final = 13
TYPE_BF16: Final = 14

class ServerLiveRequest(Message):
    def __init__(self) -> None: ...

class ServerLiveResponse(Message):
    live: bool
    def __init__(
        self,
        *,
        live: bool | None = None,
    ) -> None: ...

class ServerReadyRequest(Message):
    def __init__(self) -> None: ...

class ServerReadyResponse(Message):
    ready: bool
    def __init__(
        self,
        *,
        ready: bool | None = None,
    ) -> None: ...

class ModelReadyRequest(Message):
    name: str
    version: str
    def __init__(
        self,
        *,
        name: str | None = None,
        version: str | None = None,
    ) -> None: ...

class ModelReadyResponse(Message):
    ready: bool
    def __init__(
        self,
        *,
        ready: bool | None = None,
    ) -> None: ...

class ServerMetadataRequest(Message):
    def __init__(self) -> None: ...

class ServerMetadataResponse(Message):
    name: str
    version: str
    @property
    def extensions(self) -> RepeatedScalarFieldContainer[str]: ...
    def __init__(
        self,
        *,
        name: str | None = None,
        version: str | None = None,
        extensions: Iterable[str] | None = None,
    ) -> None: ...

class ModelMetadataRequest(Message):
    name: str
    version: str
    def __init__(
        self,
        *,
        name: str | None = None,
        version: str | None = None,
    ) -> None: ...

class ModelMetadataResponse(Message):
    class TensorMetadata(Message):
        name: str
        datatype: str
        @property
        def shape(self) -> RepeatedScalarFieldContainer[int]: ...
        def __init__(
            self,
            *,
            name: str | None = None,
            datatype: str | None = None,
            shape: Iterable[int] | None = None,
        ) -> None: ...

    name: str
    @property
    def versions(self) -> RepeatedScalarFieldContainer[str]: ...
    platform: str
    @property
    def inputs(self) -> RepeatedCompositeFieldContainer[ModelMetadataResponse.TensorMetadata]: ...
    @property
    def outputs(self) -> RepeatedCompositeFieldContainer[ModelMetadataResponse.TensorMetadata]: ...
    def __init__(
        self,
        *,
        name: str | None = None,
        versions: Iterable[str] | None = None,
        platform: str | None = None,
        inputs: Iterable[ModelMetadataResponse.TensorMetadata] | None = None,
        outputs: Iterable[ModelMetadataResponse.TensorMetadata] | None = None,
    ) -> None: ...

class InferParameter(Message):
    bool_param: bool
    int64_param: int
    string_param: str
    double_param: float
    uint64_param: int
    def __init__(
        self,
        *,
        bool_param: bool | None = None,
        int64_param: int | None = None,
        string_param: str | None = None,
        double_param: float | None = None,
        uint64_param: int | None = None,
    ) -> None: ...
    def HasField(
        self, field_name: Literal["bool_param", "int64_param", "string_param", "double_param", "uint64_param"]
    ) -> bool: ...
    def WhichOneof(
        self, oneof_group: Literal["parameter_choice"]
    ) -> Literal["bool_param", "int64_param", "string_param", "double_param", "uint64_param"] | None: ...

class InferTensorContents(Message):
    @property
    def bool_contents(self) -> RepeatedScalarFieldContainer[bool]: ...
    @property
    def int_contents(self) -> RepeatedScalarFieldContainer[int]: ...
    @property
    def int64_contents(self) -> RepeatedScalarFieldContainer[int]: ...
    @property
    def uint_contents(self) -> RepeatedScalarFieldContainer[int]: ...
    @property
    def uint64_contents(self) -> RepeatedScalarFieldContainer[int]: ...
    @property
    def fp32_contents(self) -> RepeatedScalarFieldContainer[float]: ...
    @property
    def fp64_contents(self) -> RepeatedScalarFieldContainer[float]: ...
    @property
    def bytes_contents(self) -> RepeatedScalarFieldContainer[bytes]: ...
    def __init__(
        self,
        *,
        bool_contents: Iterable[bool] | None = None,
        int_contents: Iterable[int] | None = None,
        int64_contents: Iterable[int] | None = None,
        uint_contents: Iterable[int] | None = None,
        uint64_contents: Iterable[int] | None = None,
        fp32_contents: Iterable[float] | None = None,
        fp64_contents: Iterable[float] | None = None,
        bytes_contents: Iterable[bytes] | None = None,
    ) -> None: ...

class ModelInferRequest(Message):
    class InferInputTensor(Message):
        name: str
        datatype: str
        @property
        def shape(self) -> RepeatedScalarFieldContainer[int]: ...
        @property
        def parameters(self) -> MessageMap[str, InferParameter]: ...
        @property
        def contents(self) -> InferTensorContents: ...
        def __init__(
            self,
            *,
            name: str | None = None,
            datatype: str | None = None,
            shape: Iterable[int] | None = None,
            parameters: Mapping[str, InferParameter] | None = None,
            contents: InferTensorContents | None = None,
        ) -> None: ...
        def HasField(
            self, field_name: Literal["contents"]
        ) -> bool: ...

    class InferRequestedOutputTensor(Message):
        name: str
        @property
        def parameters(self) -> MessageMap[str, InferParameter]: ...
        def __init__(
            self,
            *,
            name: str | None = None,
            parameters: Mapping[str, InferParameter] | None = None,
        ) -> None: ...

    model_name: str
    model_version: str
    id: str
    @property
    def parameters(self) -> MessageMap[str, InferParameter]: ...
    @property
    def inputs(self) -> RepeatedCompositeFieldContainer[ModelInferRequest.InferInputTensor]: ...
    @property
    def outputs(self) -> RepeatedCompositeFieldContainer[ModelInferRequest.InferRequestedOutputTensor]: ...
    @property
    def raw_input_contents(self) -> RepeatedScalarFieldContainer[bytes]: ...
    def __init__(
        self,
        *,
        model_name: str | None = None,
        model_version: str | None = None,
        id: str | None = None,
        parameters: Mapping[str, InferParameter] | None = None,
        inputs: Iterable[ModelInferRequest.InferInputTensor] | None = None,
        outputs: Iterable[ModelInferRequest.InferRequestedOutputTensor] | None = None,
        raw_input_contents: Iterable[bytes] | None = None,
    ) -> None: ...

class ModelInferResponse(Message):
    class InferOutputTensor(Message):
        name: str
        datatype: str
        @property
        def shape(self) -> RepeatedScalarFieldContainer[int]: ...
        @property
        def parameters(self) -> MessageMap[str, InferParameter]: ...
        @property
        def contents(self) -> InferTensorContents: ...
        def __init__(
            self,
            *,
            name: str | None = None,
            datatype: str | None = None,
            shape: Iterable[int] | None = None,
            parameters: Mapping[str, InferParameter] | None = None,
            contents: InferTensorContents | None = None,
        ) -> None: ...
        def HasField(
            self, field_name: Literal["contents"]
        ) -> bool: ...

    model_name: str
    model_version: str
    id: str
    @property
    def parameters(self) -> MessageMap[str, InferParameter]: ...
    @property
    def outputs(self) -> RepeatedCompositeFieldContainer[ModelInferResponse.InferOutputTensor]: ...
    @property
    def raw_output_contents(self) -> RepeatedScalarFieldContainer[bytes]: ...
    def __init__(
        self,
        *,
        model_name: str | None = None,
        model_version: str | None = None,
        id: str | None = None,
        parameters: Mapping[str, InferParameter] | None = None,
        outputs: Iterable[ModelInferResponse.InferOutputTensor] | None = None,
        raw_output_contents: Iterable[bytes] | None = None,
    ) -> None: ...

class ModelStreamInferResponse(Message):
    error_message: str
    @property
    def infer_response(self) -> ModelInferResponse: ...
    def __init__(
        self,
        *,
        error_message: str | None = None,
        infer_response: ModelInferResponse | None = None,
    ) -> None: ...
    def HasField(
        self, field_name: Literal["infer_response"]
    ) -> bool: ...

class ModelConfigRequest(Message):
    name: str
    version: str
    def __init__(
        self,
        *,
        name: str | None = None,
        version: str | None = None,
    ) -> None: ...

class ModelConfigResponse(Message):
    @property
    def config(self) -> ModelConfig: ...
    def __init__(
        self,
        *,
        config: ModelConfig | None = None,
    ) -> None: ...
    def HasField(
        self, field_name: Literal["config"]
    ) -> bool: ...

class ModelConfig(Message):
    name: str
    platform: str
    backend: str
    default_model_filename: str
    @property
    def version_policy(self) -> ModelVersionPolicy: ...
    max_batch_size: int
    @property
    def input(self) -> RepeatedCompositeFieldContainer[ModelInput]: ...
    @property
    def output(self) -> RepeatedCompositeFieldContainer[ModelOutput]: ...
    @property
    def dynamic_batching(self) -> ModelDynamicBatching: ...
    @property
    def instance_group(self) -> RepeatedCompositeFieldContainer[ModelInstanceGroup]: ...
    @property
    def model_transaction_policy(self) -> ModelTransactionPolicy: ...
    @property
    def parameters(self) -> MessageMap[str, ModelParameter]: ...
    def __init__(
        self,
        *,
        name: str | None = None,
        platform: str | None = None,
        backend: str | None = None,
        default_model_filename: str | None = None,
        version_policy: ModelVersionPolicy | None = None,
        max_batch_size: int | None = None,
        input: Iterable[ModelInput] | None = None,
        output: Iterable[ModelOutput] | None = None,
        dynamic_batching: ModelDynamicBatching | None = None,
        instance_group: Iterable[ModelInstanceGroup] | None = None,
        model_transaction_policy: ModelTransactionPolicy | None = None,
        parameters: Mapping[str, ModelParameter] | None = None,
    ) -> None: ...
    def HasField(
        self, field_name: Literal["version_policy", "dynamic_batching", "model_transaction_policy"]
    ) -> bool: ...
    def WhichOneof(
        self, oneof_group: Literal["scheduling_choice"]
    ) -> Literal["dynamic_batching"] | None: ...

class ModelVersionPolicy(Message):
    class Latest(Message):
        num_versions: int
        def __init__(
            self,
            *,
            num_versions: int | None = None,
        ) -> None: ...

    class All(Message):
        def __init__(self) -> None: ...

    class Specific(Message):
        @property
        def versions(self) -> RepeatedScalarFieldContainer[int]: ...
        def __init__(
            self,
            *,
            versions: Iterable[int] | None = None,
        ) -> None: ...

    @property
    def latest(self) -> ModelVersionPolicy.Latest: ...
    @property
    def all(self) -> ModelVersionPolicy.All: ...
    @property
    def specific(self) -> ModelVersionPolicy.Specific: ...
    def __init__(
        self,
        *,
        latest: ModelVersionPolicy.Latest | None = None,
        all: ModelVersionPolicy.All | None = None,
        specific: ModelVersionPolicy.Specific | None = None,
    ) -> None: ...
    def HasField(
        self, field_name: Literal["latest", "all", "specific"]
    ) -> bool: ...
    def WhichOneof(
        self, oneof_group: Literal["policy_choice"]
    ) -> Literal["latest", "all", "specific"] | None: ...

class ModelInput(Message):
    name: str
    data_type: int
    @property
    def dims(self) -> RepeatedScalarFieldContainer[int]: ...
    def __init__(
        self,
        *,
        name: str | None = None,
        data_type: int | None = None,
        dims: Iterable[int] | None = None,
    ) -> None: ...

class ModelOutput(Message):
    name: str
    data_type: int
    @property
    def dims(self) -> RepeatedScalarFieldContainer[int]: ...
    def __init__(
        self,
        *,
        name: str | None = None,
        data_type: int | None = None,
        dims: Iterable[int] | None = None,
    ) -> None: ...

class ModelDynamicBatching(Message):
    @property
    def preferred_batch_size(self) -> RepeatedScalarFieldContainer[int]: ...
    max_queue_delay_microseconds: int
    priority_levels: int
    default_priority_level: int
    @property
    def default_queue_policy(self) -> ModelQueuePolicy: ...
    def __init__(
        self,
        *,
        preferred_batch_size: Iterable[int] | None = None,
        max_queue_delay_microseconds: int | None = None,
        priority_levels: int | None = None,
        default_priority_level: int | None = None,
        default_queue_policy: ModelQueuePolicy | None = None,
    ) -> None: ...
    def HasField(
        self, field_name: Literal["default_queue_policy"]
    ) -> bool: ...

class ModelQueuePolicy(Message):
    TimeoutAction: ClassVar[EnumTypeWrapper]
    REJECT: Final = 0
    DELAY: Final = 1
    timeout_action: int
    default_timeout_microseconds: int
    max_queue_size: int
    def __init__(
        self,
        *,
        timeout_action: int | None = None,
        default_timeout_microseconds: int | None = None,
        max_queue_size: int | None = None,
    ) -> None: ...

class ModelInstanceGroup(Message):
    Kind: ClassVar[EnumTypeWrapper]
    KIND_AUTO: Final = 0
    KIND_GPU: Final = 1
    KIND_CPU: Final = 2
    KIND_MODEL: Final = 3
    name: str
    kind: int
    count: int
    @property
    def gpus(self) -> RepeatedScalarFieldContainer[int]: ...
    def __init__(
        self,
        *,
        name: str | None = None,
        kind: int | None = None,
        count: int | None = None,
        gpus: Iterable[int] | None = None,
    ) -> None: ...

class ModelTransactionPolicy(Message):
    decoupled: bool
    def __init__(
        self,
        *,
        decoupled: bool | None = None,
    ) -> None: ...

class ModelParameter(Message):
    string_value: str
    def __init__(
        self,
        *,
        string_value: str | None = None,
    ) -> None: ...

class ModelStatisticsRequest(Message):
    name: str
    version: str
    def __init__(
        self,
        *,
        name: str | None = None,
        version: str | None = None,
    ) -> None: ...

class ModelStatisticsResponse(Message):
    @property
    def model_stats(self) -> RepeatedCompositeFieldContainer[ModelStatistics]: ...
    def __init__(
        self,
        *,
        model_stats: Iterable[ModelStatistics] | None = None,
    ) -> None: ...

class ModelStatistics(Message):
    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    @property
    def inference_stats(self) -> InferStatistics: ...
    @property
    def batch_stats(self) -> RepeatedCompositeFieldContainer[InferBatchStatistics]: ...
    @property
    def memory_usage(self) -> RepeatedCompositeFieldContainer[MemoryUsage]: ...
    @property
    def response_stats(self) -> MessageMap[str, InferResponseStatistics]: ...
    def __init__(
        self,
        *,
        name: str | None = None,
        version: str | None = None,
        last_inference: int | None = None,
        inference_count: int | None = None,
        execution_count: int | None = None,
        inference_stats: InferStatistics | None = None,
        batch_stats: Iterable[InferBatchStatistics] | None = None,
        memory_usage: Iterable[MemoryUsage] | None = None,
        response_stats: Mapping[str, InferResponseStatistics] | None = None,
    ) -> None: ...
    def HasField(
        self, field_name: Literal["inference_stats"]
    ) -> bool: ...

class StatisticDuration(Message):
    count: int
    ns: int
    def __init__(
        self,
        *,
        count: int | None = None,
        ns: int | None = None,
    ) -> None: ...

class InferStatistics(Message):
    @property
    def success(self) -> StatisticDuration: ...
    @property
    def fail(self) -> StatisticDuration: ...
    @property
    def queue(self) -> StatisticDuration: ...
    @property
    def compute_input(self) -> StatisticDuration: ...
    @property
    def compute_infer(self) -> StatisticDuration: ...
    @property
    def compute_output(self) -> StatisticDuration: ...
    @property
    def cache_hit(self) -> StatisticDuration: ...
    @property
    def cache_miss(self) -> StatisticDuration: ...
    def __init__(
        self,
        *,
        success: StatisticDuration | None = None,
        fail: StatisticDuration | None = None,
        queue: StatisticDuration | None = None,
        compute_input: StatisticDuration | None = None,
        compute_infer: StatisticDuration | None = None,
        compute_output: StatisticDuration | None = None,
        cache_hit: StatisticDuration | None = None,
        cache_miss: StatisticDuration | None = None,
    ) -> None: ...
    def HasField(
        self, field_name: Literal["success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss"]
    ) -> bool: ...

class InferResponseStatistics(Message):
    @property
    def compute_infer(self) -> StatisticDuration: ...
    @property
    def compute_output(self) -> StatisticDuration: ...
    @property
    def success(self) -> StatisticDuration: ...
    @property
    def fail(self) -> StatisticDuration: ...
    @property
    def empty_response(self) -> StatisticDuration: ...
    @property
    def cancel(self) -> StatisticDuration: ...
    def __init__(
        self,
        *,
        compute_infer: StatisticDuration | None = None,
        compute_output: StatisticDuration | None = None,
        success: StatisticDuration | None = None,
        fail: StatisticDuration | None = None,
        empty_response: StatisticDuration | None = None,
        cancel: StatisticDuration | None = None,
    ) -> None: ...
    def HasField(
        self, field_name: Literal["compute_infer", "compute_output", "success", "fail", "empty_response", "cancel"]
    ) -> bool: ...

class InferBatchStatistics(Message):
    batch_size: int
    @property
    def compute_input(self) -> StatisticDuration: ...
    @property
    def compute_infer(self) -> StatisticDuration: ...
    @property
    def compute_output(self) -> StatisticDuration: ...
    def __init__(
        self,
        *,
        batch_size: int | None = None,
        compute_input: StatisticDuration | None = None,
        compute_infer: StatisticDuration | None = None,
        compute_output: StatisticDuration | None = None,
    ) -> None: ...
    def HasField(
        self, field_name: Literal["compute_input", "compute_infer", "compute_output"]
    ) -> bool: ...

class MemoryUsage(Message):
    type: str
    id: int
    byte_size: int
    def __init__(
        self,
        *,
        type: str | None = None,
        id: int | None = None,
        byte_size: int | None = None,
    ) -> None: ...

class ModelRepositoryParameter(Message):
    bool_param: bool
    int64_param: int
    string_param: str
    bytes_param: bytes
    def __init__(
        self,
        *,
        bool_param: bool | None = None,
        int64_param: int | None = None,
        string_param: str | None = None,
        bytes_param: bytes | None = None,
    ) -> None: ...
    def HasField(
        self, field_name: Literal["bool_param", "int64_param", "string_param", "bytes_param"]
    ) -> bool: ...
    def WhichOneof(
        self, oneof_group: Literal["parameter_choice"]
    ) -> Literal["bool_param", "int64_param", "string_param", "bytes_param"] | None: ...

class RepositoryIndexRequest(Message):
    repository_name: str
    ready: bool
    def __init__(
        self,
        *,
        repository_name: str | None = None,
        ready: bool | None = None,
    ) -> None: ...

class RepositoryIndexResponse(Message):
    class ModelIndex(Message):
        name: str
        version: str
        state: str
        reason: str
        def __init__(
            self,
            *,
            name: str | None = None,
            version: str | None = None,
            state: str | None = None,
            reason: str | None = None,
        ) -> None: ...

    @property
    def models(self) -> RepeatedCompositeFieldContainer[RepositoryIndexResponse.ModelIndex]: ...
    def __init__(
        self,
        *,
        models: Iterable[RepositoryIndexResponse.ModelIndex] | None = None,
    ) -> None: ...

class RepositoryModelLoadRequest(Message):
    repository_name: str
    model_name: str
    @property
    def parameters(self) -> MessageMap[str, ModelRepositoryParameter]: ...
    def __init__(
        self,
        *,
        repository_name: str | None = None,
        model_name: str | None = None,
        parameters: Mapping[str, ModelRepositoryParameter] | None = None,
    ) -> None: ...

class RepositoryModelLoadResponse(Message):
    def __init__(self) -> None: ...

class RepositoryModelUnloadRequest(Message):
    repository_name: str
    model_name: str
    @property
    def parameters(self) -> MessageMap[str, ModelRepositoryParameter]: ...
    def __init__(
        self,
        *,
        repository_name: str | None = None,
        model_name: str | None = None,
        parameters: Mapping[str, ModelRepositoryParameter] | None = None,
    ) -> None: ...

class RepositoryModelUnloadResponse(Message):
    def __init__(self) -> None: ...

GRPCInferenceService: Final[dict[str, Method]]

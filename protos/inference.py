"""The inference protocol: Open Inference Protocol ("V2") over gRPC, with Triton's ``ModelConfig``.

``inference.proto`` says what each message means; ``inference.pyi`` has the types. The messages are
wire-compatible with those of ``tritonclient`` and KServe, and are distinct classes in a pool of
their own.
"""

from protos.loader import Language

LANGUAGE = Language("inference")

ServerLiveRequest = LANGUAGE.message("ServerLiveRequest")
ServerLiveResponse = LANGUAGE.message("ServerLiveResponse")
ServerReadyRequest = LANGUAGE.message("ServerReadyRequest")
ServerReadyResponse = LANGUAGE.message("ServerReadyResponse")
ModelReadyRequest = LANGUAGE.message("ModelReadyRequest")
ModelReadyResponse = LANGUAGE.message("ModelReadyResponse")

ServerMetadataRequest = LANGUAGE.message("ServerMetadataRequest")
ServerMetadataResponse = LANGUAGE.message("ServerMetadataResponse")
ModelMetadataRequest = LANGUAGE.message("ModelMetadataRequest")
ModelMetadataResponse = LANGUAGE.message("ModelMetadataResponse")

InferParameter = LANGUAGE.message("InferParameter")
InferTensorContents = LANGUAGE.message("InferTensorContents")
ModelInferRequest = LANGUAGE.message("ModelInferRequest")
ModelInferResponse = LANGUAGE.message("ModelInferResponse")
ModelStreamInferResponse = LANGUAGE.message("ModelStreamInferResponse")

ModelConfigRequest = LANGUAGE.message("ModelConfigRequest")
ModelConfigResponse = LANGUAGE.message("ModelConfigResponse")
ModelConfig = LANGUAGE.message("ModelConfig")
ModelVersionPolicy = LANGUAGE.message("ModelVersionPolicy")
ModelInput = LANGUAGE.message("ModelInput")
ModelOutput = LANGUAGE.message("ModelOutput")
ModelDynamicBatching = LANGUAGE.message("ModelDynamicBatching")
ModelQueuePolicy = LANGUAGE.message("ModelQueuePolicy")
ModelInstanceGroup = LANGUAGE.message("ModelInstanceGroup")
ModelTransactionPolicy = LANGUAGE.message("ModelTransactionPolicy")
ModelParameter = LANGUAGE.message("ModelParameter")
DataType = LANGUAGE.enum("DataType")
globals().update(DataType.items())  # TYPE_FP32 and the others, as in every protobuf module

ModelStatisticsRequest = LANGUAGE.message("ModelStatisticsRequest")
ModelStatisticsResponse = LANGUAGE.message("ModelStatisticsResponse")
ModelStatistics = LANGUAGE.message("ModelStatistics")
StatisticDuration = LANGUAGE.message("StatisticDuration")
InferStatistics = LANGUAGE.message("InferStatistics")
InferResponseStatistics = LANGUAGE.message("InferResponseStatistics")
InferBatchStatistics = LANGUAGE.message("InferBatchStatistics")
MemoryUsage = LANGUAGE.message("MemoryUsage")

ModelRepositoryParameter = LANGUAGE.message("ModelRepositoryParameter")
RepositoryIndexRequest = LANGUAGE.message("RepositoryIndexRequest")
RepositoryIndexResponse = LANGUAGE.message("RepositoryIndexResponse")
RepositoryModelLoadRequest = LANGUAGE.message("RepositoryModelLoadRequest")
RepositoryModelLoadResponse = LANGUAGE.message("RepositoryModelLoadResponse")
RepositoryModelUnloadRequest = LANGUAGE.message("RepositoryModelUnloadRequest")
RepositoryModelUnloadResponse = LANGUAGE.message("RepositoryModelUnloadResponse")

GRPCInferenceService = LANGUAGE.methods("GRPCInferenceService")
"""The calls of the service, by name."""

"""The inference protocol: Open Inference Protocol ("V2") over gRPC, with Triton's ``ModelConfig``.

``inference.proto`` says what each message means; ``inference.pyi`` has the types. The messages are
wire-compatible with those of ``tritonclient`` and KServe, and are distinct classes in a pool of
their own.
"""

from protos.loader import Language

_language = Language("inference")

ServerLiveRequest = _language.message("ServerLiveRequest")
ServerLiveResponse = _language.message("ServerLiveResponse")
ServerReadyRequest = _language.message("ServerReadyRequest")
ServerReadyResponse = _language.message("ServerReadyResponse")
ModelReadyRequest = _language.message("ModelReadyRequest")
ModelReadyResponse = _language.message("ModelReadyResponse")

ServerMetadataRequest = _language.message("ServerMetadataRequest")
ServerMetadataResponse = _language.message("ServerMetadataResponse")
ModelMetadataRequest = _language.message("ModelMetadataRequest")
ModelMetadataResponse = _language.message("ModelMetadataResponse")

InferParameter = _language.message("InferParameter")
InferTensorContents = _language.message("InferTensorContents")
ModelInferRequest = _language.message("ModelInferRequest")
ModelInferResponse = _language.message("ModelInferResponse")

ModelConfigRequest = _language.message("ModelConfigRequest")
ModelConfigResponse = _language.message("ModelConfigResponse")
ModelConfig = _language.message("ModelConfig")
ModelVersionPolicy = _language.message("ModelVersionPolicy")
ModelInput = _language.message("ModelInput")
ModelOutput = _language.message("ModelOutput")
ModelDynamicBatching = _language.message("ModelDynamicBatching")
ModelInstanceGroup = _language.message("ModelInstanceGroup")
ModelTransactionPolicy = _language.message("ModelTransactionPolicy")
ModelParameter = _language.message("ModelParameter")
DataType = _language.enum("DataType")
globals().update(DataType.items())  # TYPE_FP32 and the others, as in every protobuf module

GRPCInferenceService = _language.methods("GRPCInferenceService")
"""The calls of the service, by name."""

"""Server reflection of gRPC, version 1: what a server offers, as descriptors."""

from protos.loader import Language

LANGUAGE = Language("reflection")

ServerReflectionRequest = LANGUAGE.message("ServerReflectionRequest")
ExtensionRequest = LANGUAGE.message("ExtensionRequest")
ServerReflectionResponse = LANGUAGE.message("ServerReflectionResponse")
FileDescriptorResponse = LANGUAGE.message("FileDescriptorResponse")
ExtensionNumberResponse = LANGUAGE.message("ExtensionNumberResponse")
ListServiceResponse = LANGUAGE.message("ListServiceResponse")
ServiceResponse = LANGUAGE.message("ServiceResponse")
ErrorResponse = LANGUAGE.message("ErrorResponse")

ServerReflection = LANGUAGE.methods("ServerReflection")
"""The calls of the service, by name."""

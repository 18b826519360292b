"""Server reflection of gRPC under its old name; the same messages as in ``reflection.py``."""

from protos.loader import Language

LANGUAGE = Language("reflection_v1alpha")

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

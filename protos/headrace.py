"""What Headrace offers over gRPC beyond the Open Inference Protocol: pushing rows of feature views."""

from protos.loader import Language

LANGUAGE = Language("headrace")

PushRequest = LANGUAGE.message("PushRequest")
Row = LANGUAGE.message("Row")
Value = LANGUAGE.message("Value")
FloatList = LANGUAGE.message("FloatList")
IntList = LANGUAGE.message("IntList")
PushResponse = LANGUAGE.message("PushResponse")

FeatureService = LANGUAGE.methods("FeatureService")
"""The calls of the service, by name."""

"""The health protocol of gRPC: is the server, or one model, able to answer?"""

from protos.loader import Language

LANGUAGE = Language("health")

HealthCheckRequest = LANGUAGE.message("HealthCheckRequest")
HealthCheckResponse = LANGUAGE.message("HealthCheckResponse")
HealthListRequest = LANGUAGE.message("HealthListRequest")
HealthListResponse = LANGUAGE.message("HealthListResponse")

Health = LANGUAGE.methods("Health")
"""The calls of the service, by name."""

# Two images from one file: `docker build .` makes the one for the CPU, `docker build --target gpu .` the one for CUDA.
#
# Each is built in two steps. The first runs scripts/setup.sh, as `make setup` does, and leaves a virtual environment;
# the second takes that environment and nothing else, so no build tool, no cache and no source folder is shipped.
# Both steps stand on the same base image, because an environment points at the Python that made it.

FROM scratch AS checkout
COPY pyproject.toml README.md LICENSE /
COPY scripts/setup.sh scripts/check_setup.py /scripts/
COPY headrace /headrace
COPY gateway /gateway
COPY backends /backends
COPY featurecache /featurecache
COPY rollout /rollout
COPY foundation /foundation
COPY protos /protos


FROM python:3.11-slim-bookworm AS build-cpu
WORKDIR /opt/headrace
COPY --from=checkout / ./
ENV PIP_CACHE_DIR=/var/cache/pip
RUN --mount=type=cache,target=/var/cache/pip sh scripts/setup.sh cpu production
RUN .venv/bin/python -m pip uninstall --quiet --yes setuptools pip


# ONNX Runtime's CUDA build is linked with CUDA 13 and cuDNN 9: this image has both, and no Python.
FROM nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04 AS build-gpu
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/headrace
COPY --from=checkout / ./
ENV PIP_CACHE_DIR=/var/cache/pip
RUN --mount=type=cache,target=/var/cache/pip sh scripts/setup.sh gpu production
RUN .venv/bin/python -m pip uninstall --quiet --yes setuptools pip


FROM nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04 AS gpu
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build-gpu /opt/headrace/.venv /opt/headrace/.venv
LABEL org.opencontainers.image.title="Headrace" \
      org.opencontainers.image.description="A model serving gateway: V2 REST and gRPC in front of ONNX Runtime, with CUDA" \
      org.opencontainers.image.licenses="Apache-2.0"
# Bytecode lies beside the modules already; the root may be mounted read-only.
ENV PATH=/opt/headrace/.venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /srv
USER 10001:10001
EXPOSE 8000 8001 8002
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["headrace", "health"]
ENTRYPOINT ["headrace"]
CMD ["serve", "--models", "/models", "--host", "0.0.0.0"]


FROM python:3.11-slim-bookworm AS cpu
COPY --from=build-cpu /opt/headrace/.venv /opt/headrace/.venv
LABEL org.opencontainers.image.title="Headrace" \
      org.opencontainers.image.description="A model serving gateway: V2 REST and gRPC in front of ONNX Runtime" \
      org.opencontainers.image.licenses="Apache-2.0"
# Bytecode lies beside the modules already; the root may be mounted read-only.
ENV PATH=/opt/headrace/.venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /srv
USER 10001:10001
EXPOSE 8000 8001 8002
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["headrace", "health"]
ENTRYPOINT ["headrace"]
CMD ["serve", "--models", "/models", "--host", "0.0.0.0"]

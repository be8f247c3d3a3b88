# Targets: api (no torch), worker (CPU), worker-cuda.
#   docker build --target api -t stitchwork-api .
#   docker build --target worker -t stitchwork-worker .
#   docker build --target worker-cuda -t stitchwork-worker-cuda .
# Digests are of images for all platforms; `docker buildx imagetools inspect NAME:TAG` prints that of a newer one.
# `.ci/lock` writes requirements/*.txt.

ARG BASE=docker.io/library/python:3.11.16-slim-bookworm@sha256:528257d48c1da0dcecc2e725d1ae34498d60c965f1241e39cd6a85a8859bdf84

FROM ${BASE} AS base
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PATH=/opt/venv/bin:$PATH
# Its group is root's, as that of any other uid that a platform may choose.
RUN python3 -m venv /opt/venv && useradd --create-home --uid 10001 --gid 0 stitchwork
# Relative paths such as ./models/name lead to the folders that are mounted.
WORKDIR /

FROM base AS wheel
COPY requirements/build.txt /requirements/
RUN pip install --no-deps --require-hashes --requirement /requirements/build.txt
COPY pyproject.toml hatch_build.py README.md LICENSE /source/
COPY docs /source/docs
COPY service/stitchwork /source/service/stitchwork
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /dist /source

FROM base AS api
COPY requirements/api.txt /requirements/
RUN pip install --no-deps --require-hashes --requirement /requirements/api.txt
COPY --from=wheel /dist /dist
RUN pip install --no-deps /dist/*.whl && pip check
COPY service/healthcheck /usr/local/bin/
USER 10001
# Inside a container the address must be open, so every request needs a key: that of
# STITCHWORK_ADMIN_KEY, of a key file, or of `stitchwork api-keys add`.
ENV STITCHWORK_HOST=:: STITCHWORK_PORT=8765 STITCHWORK_REQUIRE_KEYS=true
EXPOSE 8765
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
    CMD ["bash", "-c", "healthcheck /health/live $STITCHWORK_PORT"]
CMD ["stitchwork", "api"]

FROM base AS worker-base
RUN mkdir -p /models /cache && chown 10001:0 /models /cache && chmod 2775 /cache
ENV HF_HOME=/cache STITCHWORK_COMPILE_CACHE_DIR=/cache/compiled STITCHWORK_MODEL_ROOTS=/models
VOLUME ["/models", "/cache"]
# A worker takes no requests; on this port it shows its probes and its metrics.
ENV STITCHWORK_WORKER_PORT=9464 STITCHWORK_HOST=::
EXPOSE 9464
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s \
    CMD ["bash", "-c", "healthcheck /live $STITCHWORK_WORKER_PORT"]
CMD ["stitchwork", "worker"]

FROM worker-base AS worker
COPY requirements/worker.txt /requirements/
RUN pip install --no-deps --require-hashes --requirement /requirements/worker.txt
# An index of wheels for CPUs: those of PyPI bring 5 GB of CUDA.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch==2.14.1 torchvision==0.29.1
COPY --from=wheel /dist /dist
RUN pip install --no-deps /dist/*.whl && pip check
COPY service/healthcheck /usr/local/bin/
USER 10001
ENV STITCHWORK_DEVICE=cpu

FROM worker-base AS worker-cuda
COPY requirements/worker-cuda.txt /requirements/
RUN pip install --no-deps --require-hashes --requirement /requirements/worker-cuda.txt
# An index of wheels for another version of CUDA than that of PyPI's.
ARG TORCH_CUDA_INDEX=
RUN pip install ${TORCH_CUDA_INDEX:+--index-url "$TORCH_CUDA_INDEX"} torch==2.14.1 torchvision==0.29.1
COPY --from=wheel /dist /dist
RUN pip install --no-deps /dist/*.whl && pip check
COPY service/healthcheck /usr/local/bin/
USER 10001
ENV STITCHWORK_DEVICE=cuda

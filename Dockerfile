# syntax=docker/dockerfile:1
# Targets: api (no torch), worker (CPU), worker-cuda.
#   docker build --target api -t stitchwork-api .
#   docker build --target worker -t stitchwork-worker .
#   docker build --target worker-cuda -t stitchwork-worker-cuda .

FROM python:3.11-slim AS base
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PATH=/opt/venv/bin:$PATH
RUN python -m venv /opt/venv && useradd --create-home --uid 10001 stitchwork
WORKDIR /app

FROM base AS api
COPY pyproject.toml README.md LICENSE ./
COPY service service
RUN pip install ".[api,onnx]"
USER stitchwork
# Inside a container the address must be open, so every request needs a key: that of
# STITCHWORK_ADMIN_KEY, of a key file, or of `stitchwork api-keys add`.
ENV STITCHWORK_HOST=0.0.0.0 STITCHWORK_REQUIRE_KEYS=true
EXPOSE 8765
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8765/health/live', timeout=2)"]
CMD ["stitchwork", "api"]

FROM base AS worker-base
# Where torch comes from: an index of wheels for the device.
ARG TORCH_INDEX
COPY pyproject.toml README.md LICENSE ./
COPY service service
RUN pip install torch torchvision ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} && pip install ".[worker]" \
    && mkdir -p /models /cache && chown stitchwork /models /cache
USER stitchwork
ENV HF_HOME=/cache STITCHWORK_MODEL_ROOTS=/models STITCHWORK_COMPILE_CACHE_DIR=/cache/compiled
VOLUME ["/models", "/cache"]
# A worker takes no requests; on this port it shows its metrics.
ENV STITCHWORK_WORKER_METRICS_PORT=9464 STITCHWORK_HOST=0.0.0.0
EXPOSE 9464
# That it lives, and is not stuck, it tells the queue server.
HEALTHCHECK --interval=15s --timeout=10s --start-period=120s \
    CMD ["stitchwork", "status", "--here"]
CMD ["stitchwork", "worker"]

FROM worker-base AS worker
# On a CPU models are compiled.
USER root
RUN pip install ".[openvino]"
USER stitchwork
ENV STITCHWORK_DEVICE=cpu

FROM worker-base AS worker-cuda
ENV STITCHWORK_DEVICE=cuda

# Mirage on NVIDIA GPUs: a worker for the qwen2.5-vl recipes. From the root:
#   docker build -f docker/gpu.Dockerfile -t mirage:gpu .
# The CUDA of the base image and of torch's wheels must agree in their first number. The host's driver: 580 or later.
ARG CUDA=nvidia/cuda:13.0.2-devel-ubuntu24.04

FROM ${CUDA} AS build

RUN apt-get update \
    && apt-get install --no-install-recommends -y python3.12 python3.12-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3.12 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /opt/mirage
COPY constraints.txt ./
RUN pip install --index-url https://download.pytorch.org/whl/cu130 "$(grep -i '^torch==' constraints.txt)"
COPY . .
RUN pip install -c constraints.txt -e '.[train,scenes,teacher,serve,machines]'

# The same image again, not the smaller runtime one: DeepSpeed asks nvcc for its version when it is imported beside a
# CUDA torch, and Triton compiles small C stubs for its kernels (g++, Python's headers).
FROM ${CUDA}

RUN apt-get update \
    && apt-get install --no-install-recommends -y python3.12 python3.12-dev g++ \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 mirage && mkdir /data && chown mirage:mirage /data
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/mirage /opt/mirage

USER 10001:10001
WORKDIR /opt/mirage
ENV PATH=/opt/venv/bin:$PATH MIRAGE_HOME=/data PREFECT_HOME=/data/prefect HF_HOME=/data/huggingface \
    PREFECT_SERVER_ANALYTICS_ENABLED=false PYTHONUNBUFFERED=1
VOLUME /data
CMD ["prefect", "--no-prompt", "worker", "start", "--pool", "mirage", "--type", "process", "--with-healthcheck"]

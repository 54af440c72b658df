# Mirage on NVIDIA GPUs: a worker for the qwen2.5-vl recipes. From the root:
#   docker build -f docker/gpu.Dockerfile -t mirage:gpu .
# The CUDA of the base image and of torch's wheels must agree in their first number. The host's driver: 580 or later.
ARG CUDA=nvidia/cuda:13.0.2-devel-ubuntu24.04
# The base image's Python, 3.11 or 3.12.
ARG PYTHON=python3.12

FROM ${CUDA} AS build

ARG PYTHON
# Where packages come from: pip reads these variables. Only this stage and the next have them, the image has not.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG TORCH_INDEX=https://download.pytorch.org/whl/cu130

RUN apt-get update \
    && apt-get install --no-install-recommends -y ${PYTHON} ${PYTHON}-venv \
    && rm -rf /var/lib/apt/lists/*
# pip has an environment of its own, so that none is in the image.
RUN ${PYTHON} -m venv /opt/pip && ${PYTHON} -m venv --without-pip /opt/venv
ENV PATH=/opt/venv/bin:/opt/pip/bin:$PATH PIP_PYTHON=/opt/venv PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /opt/dependencies
COPY constraints.txt ./
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$(grep -i '^torch==' constraints.txt)"
# What the code needs, without the code: a change of code leaves this layer as it is.
COPY pyproject.toml ./
RUN touch README.md LICENSE \
    && pip install -c constraints.txt '.[train,scenes,teacher,serve,machines]' \
    && pip uninstall -y mirage-latent

FROM build AS code

WORKDIR /opt/mirage
COPY . .
# Compiled here, since uid 10001 may not write there.
RUN pip install --no-deps --prefix /opt/installed -e . && rm -r *.egg-info && python -m compileall -q .

# The same image again, not the smaller runtime one: DeepSpeed asks nvcc for its version when it is imported beside a
# CUDA torch, and Triton compiles small C stubs for its kernels (g++, Python's headers).
FROM ${CUDA}

ARG PYTHON
RUN apt-get update \
    && apt-get install --no-install-recommends -y ${PYTHON} ${PYTHON}-dev g++ \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 mirage && mkdir /data && chown mirage:mirage /data
COPY --from=build /opt/venv /opt/venv
COPY --from=code /opt/installed /opt/venv
COPY --from=code /opt/mirage /opt/mirage

USER 10001:10001
WORKDIR /opt/mirage
ENV PATH=/opt/venv/bin:$PATH MIRAGE_HOME=/data PREFECT_HOME=/data/prefect HF_HOME=/data/huggingface \
    PREFECT_SERVER_ANALYTICS_ENABLED=false PYTHONUNBUFFERED=1
VOLUME /data
CMD ["prefect", "--no-prompt", "worker", "start", "--pool", "mirage", "--type", "process", "--with-healthcheck"]

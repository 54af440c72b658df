# Mirage on NVIDIA GPUs: the qwen2.5-vl recipes. Build from the repository's root:
#   docker build -f docker/gpu.Dockerfile -t mirage:gpu .
# The devel image holds nvcc, which DeepSpeed needs to build its optimizers for the GPU it finds.
FROM nvidia/cuda:12.9.1-cudnn-devel-ubuntu24.04

RUN apt-get update \
    && apt-get install --no-install-recommends -y python3.12 python3.12-dev python3.12-venv g++ make \
    && rm -rf /var/lib/apt/lists/*
RUN python3.12 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH

WORKDIR /opt/mirage
COPY constraints.txt ./
# PyPI's Linux wheel of torch brings its own CUDA libraries.
RUN pip install --no-cache-dir "$(grep -i '^torch==' constraints.txt)"

COPY . .
RUN pip install --no-cache-dir -c constraints.txt -e '.[train,scenes,teacher]'

RUN useradd --create-home --uid 10001 mirage && mkdir -p /data && chown mirage /data
USER mirage
ENV MIRAGE_HOME=/data MIRAGE_STORE=/data/store PREFECT_HOME=/data/prefect HF_HOME=/data/huggingface \
    PREFECT_RESULTS_DEFAULT_SERIALIZER=json PYTHONUNBUFFERED=1
VOLUME /data
CMD ["prefect", "--no-prompt", "worker", "start", "--pool", "mirage", "--type", "process"]

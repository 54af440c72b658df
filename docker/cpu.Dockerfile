# Mirage on CPU: server, deploy job, a worker for the tiny recipe, synthesis and evaluation, and a served model.
# From the root:
#   docker build -f docker/cpu.Dockerfile -t mirage:cpu .
FROM python:3.11-slim-bookworm AS build

RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /opt/mirage
COPY constraints.txt ./
RUN pip install --index-url https://download.pytorch.org/whl/cpu "$(grep -i '^torch==' constraints.txt)"
COPY . .
# The check at the end takes one DeepSpeed step: nothing needs compiling on CPU.
RUN pip install -c constraints.txt -e '.[train,teacher,serve,machines]' && python -m mirage_core.training.engine.deepspeed_setup

FROM python:3.11-slim-bookworm

RUN useradd --create-home --uid 10001 mirage && mkdir /data && chown mirage:mirage /data
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/mirage /opt/mirage

USER 10001:10001
WORKDIR /opt/mirage
ENV PATH=/opt/venv/bin:$PATH MIRAGE_HOME=/data PREFECT_HOME=/data/prefect HF_HOME=/data/huggingface \
    PREFECT_SERVER_ANALYTICS_ENABLED=false PYTHONUNBUFFERED=1
VOLUME /data
CMD ["prefect", "--no-prompt", "worker", "start", "--pool", "mirage", "--type", "process", "--with-healthcheck"]

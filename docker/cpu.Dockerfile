# Mirage on CPU: server, deploy job, a worker for the tiny recipe, synthesis and evaluation, and a served model.
# From the root:
#   docker build -f docker/cpu.Dockerfile -t mirage:cpu .
FROM python:3.11-slim-bookworm AS build

# Where packages come from: pip reads these variables. Only this stage and the next have them, the image has not.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

# pip has an environment of its own, so that none is in the image.
RUN python -m venv /opt/pip && python -m venv --without-pip /opt/venv
ENV PATH=/opt/venv/bin:/opt/pip/bin:$PATH PIP_PYTHON=/opt/venv PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /opt/dependencies
COPY constraints.txt ./
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$(grep -i '^torch==' constraints.txt)"
# What the code needs, without the code: a change of code leaves this layer as it is.
COPY pyproject.toml ./
RUN touch README.md LICENSE \
    && pip install -c constraints.txt '.[train,teacher,serve,machines]' \
    && pip uninstall -y mirage-latent

FROM build AS code

WORKDIR /opt/mirage
COPY . .
# Compiled here, since uid 10001 may not write there. The check takes one DeepSpeed step: nothing needs compiling on CPU.
RUN pip install --no-deps --prefix /opt/installed -e . && rm -r *.egg-info \
    && python -m mirage_core.training.engine.deepspeed_setup \
    && python -m compileall -q .

FROM python:3.11-slim-bookworm

RUN useradd --create-home --uid 10001 mirage && mkdir /data && chown mirage:mirage /data
COPY --from=build /opt/venv /opt/venv
COPY --from=code /opt/installed /opt/venv
COPY --from=code /opt/mirage /opt/mirage

USER 10001:10001
WORKDIR /opt/mirage
ENV PATH=/opt/venv/bin:$PATH MIRAGE_HOME=/data PREFECT_HOME=/data/prefect HF_HOME=/data/huggingface \
    PREFECT_SERVER_ANALYTICS_ENABLED=false PYTHONUNBUFFERED=1
VOLUME /data
CMD ["prefect", "--no-prompt", "worker", "start", "--pool", "mirage", "--type", "process", "--with-healthcheck"]

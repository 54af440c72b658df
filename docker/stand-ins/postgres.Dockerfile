# Debian's PostgreSQL in the place of postgres:17, for verify.sh: a machine without an image registry.
FROM python:3.11-slim-bookworm

# Its postinst would make a cluster of its own.
RUN mkdir -p /etc/postgresql-common && echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf \
    && apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --no-install-recommends -y postgresql \
    && rm -rf /var/lib/apt/lists/*
COPY postgres.sh /entrypoint.sh

VOLUME /var/lib/postgresql/data
ENTRYPOINT ["/bin/sh", "/entrypoint.sh"]

# The daemon, without build tools and without root. Its file system is never written to:
#
#   docker build -t projectiond .
#   docker run --read-only --env DATABASE_URL=postgresql://... projectiond
#
# What lies in projections/ at the time is in the image. To run others mount them over /app/projections, or build
# an image FROM this one that copies them there. docs/deployment.md tells more.

# One place for the version of both stages. Renew it with Python's security releases; to hold it to the byte as well, write
# python:...@sha256:... with the digest that `docker buildx imagetools inspect` shows.
ARG BASE=python:3.12.12-slim-bookworm

FROM ${BASE} AS build
WORKDIR /build
COPY constraints.txt ./
RUN python -m venv /opt/projectiond
COPY pyproject.toml README.md LICENSE schema.sql ./
COPY src ./src
COPY projections ./projections
# pip has no business in an image that is never changed.
RUN /opt/projectiond/bin/pip install --no-cache-dir --disable-pip-version-check --constraint constraints.txt . \
    && /opt/projectiond/bin/pip uninstall --yes --quiet pip

FROM ${BASE}
# A number, so that Kubernetes can see that it is not root (runAsNonRoot).
RUN groupadd --gid 10001 projectiond \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin projectiond
COPY --from=build /opt/projectiond /opt/projectiond
WORKDIR /app
COPY config ./config
COPY projections ./projections
# The supervisor shares a small file with its workers, and /dev/shm is what can be written to under --read-only.
ENV PATH=/opt/projectiond/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    TMPDIR=/dev/shm \
    PROJECTIOND_CONFIG=/app/config/production.toml
USER 10001:10001
# drain_seconds (20) must fit into what the runtime grants after this: docker run --stop-timeout 30.
STOPSIGNAL SIGTERM
# It asks /healthz at the address of the settings. A daemon that has lost its database is healthy and waits. With
# PROJECTIOND_HTTP_PORT=0 there is nobody to ask: run it with --no-healthcheck then.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 CMD ["projectiond", "health"]
# The first process of a container is not ended by a signal that it does not handle. One that comes while Python starts is
# kept until it is handled.
ENTRYPOINT ["env", "--block-signal=TERM", "projectiond"]
CMD ["run"]

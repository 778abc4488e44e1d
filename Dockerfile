# syntax=docker/dockerfile:1
# The daemon, without build tools and without root. It writes nothing to its own file system, so it runs with
# --read-only. DATABASE_URL is required:
#
#   docker build -t projectiond .
#   docker run --read-only --env DATABASE_URL=postgresql://... projectiond
#
# Your own projections: mount them over /app/projections, or build an image FROM this one that copies them there.

FROM python:3.12-slim AS build
WORKDIR /build
COPY constraints.txt ./
RUN python -m venv /opt/projectiond
COPY pyproject.toml README.md LICENSE schema.sql ./
COPY src ./src
COPY projections ./projections
# pip has no business in an image that is never changed.
RUN /opt/projectiond/bin/pip install --no-cache-dir --disable-pip-version-check --constraint constraints.txt . \
    && /opt/projectiond/bin/pip uninstall --yes --quiet pip

FROM python:3.12-slim
# A number, so that Kubernetes can see that it is not root (runAsNonRoot).
RUN groupadd --gid 10001 projectiond \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin projectiond
COPY --from=build /opt/projectiond /opt/projectiond
WORKDIR /app
COPY config ./config
COPY projections ./projections
ENV PATH=/opt/projectiond/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PROJECTIOND_CONFIG=/app/config/production.toml
USER 10001:10001
# drain_seconds (20) must fit into what the runtime grants after this: docker run --stop-timeout 30.
STOPSIGNAL SIGTERM
# No HEALTHCHECK: a daemon that cannot reach its database is healthy and waits; restarting it would not help.
# A dead or stuck worker is the supervisor's to restart, and a dead supervisor ends the container.
ENTRYPOINT ["projectiond"]
CMD ["run"]

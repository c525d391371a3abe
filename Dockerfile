# Everything a migration needs, as a user without rights, on a read-only root, with one volume at /data.
#
#   docker build -t spectron-migrate:0.1.0 .
#   docker run --rm --read-only --cap-drop ALL -v memory:/data -v "$PWD":/config:ro --env-file keys.env \
#     spectron-migrate:0.1.0 export --config /config/spectron-migrate.yaml
#
# BASE names the same image in a registry of your own. `make image-test` builds it and tries all that is said here.
ARG BASE=python:3.13-slim
FROM ${BASE} AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY spectron_migrate spectron_migrate
# The environment gets no pip: what runs has nothing to install with.
RUN python -m venv --without-pip /opt/venv \
 && python -m pip --python /opt/venv/bin/python install --no-cache-dir '.[pgvector]'

FROM ${BASE}
LABEL org.opencontainers.image.title="spectron-migrate" \
      org.opencontainers.image.description="Moves an AI agent's memory from Mem0 to Spectron" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/venv /opt/venv
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin migrate \
 && install -d -o migrate -g migrate -m 0700 /data
# Whatever a library writes beside its own work goes to the volume too: the root is read-only.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/data \
    TMPDIR=/data \
    MEM0_DIR=/data/.mem0 \
    MEM0_TELEMETRY=False
USER 10001:10001
WORKDIR /data
VOLUME /data
STOPSIGNAL SIGTERM
ENTRYPOINT ["spectron-migrate"]
CMD ["--help"]

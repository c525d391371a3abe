# Everything a migration needs, as a user without rights, on a read-only root, with one volume at /data.
#
#   docker build -t spectron-migrate:0.1.0 .
#   docker run --rm --read-only --cap-drop ALL -v memory:/data -v "$PWD":/config:ro --env-file keys.env \
#     spectron-migrate:0.1.0 export --config /config/spectron-migrate.yaml
FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY spectron_migrate spectron_migrate
RUN python -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir '.[pgvector]'

FROM python:3.13-slim
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

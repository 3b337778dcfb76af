# The servers that the tests reload in containers: `cargo xtask test` builds it.
ARG BASE=debian:bookworm-slim
FROM $BASE
# Twice: see ../Dockerfile.
RUN (timeout 300 apt-get update || timeout 300 apt-get update) \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        gunicorn \
        haproxy \
        nginx-light \
    && rm -rf /var/lib/apt/lists/*

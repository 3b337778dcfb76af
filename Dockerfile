# The image of reload-agent: one static binary, and nothing else.
#
#     cargo xtask image    builds it, and the image that it is built in where there is no registry
#     docker build .       builds the same where there is one, but does not know the commit
#
# It needs BuildKit, for the caches and the secrets. There is no line `# syntax=`, for the front end
# that it names would have to be pulled.

# Where no registry can be reached, `cargo xtask image` names another, which it has made.
ARG BASE=debian:bookworm-slim

# --- What compiles. A change of our source leaves these layers as they are.
FROM $BASE AS tools

# The packages of xtask/src/package.rs, and what it takes to reach a registry by HTTPS. Where a mirror does not
# answer at once, apt 2.6 may wait for ever for what it means to fetch again.
RUN (timeout 300 apt-get update || timeout 300 apt-get update) \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        ca-certificates \
        cargo-web \
        g++ \
        gcc \
        libcap2-bin \
        libc6-dev \
        libstd-rust-web-dev-bpf \
        llvm-22-dev \
        rustc-web \
    && rm -rf /var/lib/apt/lists/*

# As `cargo xtask setup` builds it. Two secrets say how to reach crates.io from here, where that takes
# more than a network: the certificates to trust, and a configuration of cargo. They are mounted for
# the one command, so no layer has them, and they are optional.
RUN --mount=type=cache,target=/root/.cargo/registry \
    --mount=type=secret,id=certificates,target=/etc/ssl/certs/ca-certificates.crt \
    --mount=type=secret,id=cargo-config,target=/root/.cargo/config.toml \
    CARGO_PROFILE_DEV_DEBUG=false LLVM_PREFIX=/usr/lib/llvm-22 \
    cargo install bpf-linker --version 0.13.0 --locked --debug \
        --no-default-features --features llvm-22 --root /usr/local

# --- The build. What cargo has built is kept from one build to the next, so only our own crates are
# compiled again; and those always, for another checkout may have built there last, and cargo goes by
# the times of files.
FROM tools AS build
WORKDIR /source
COPY . .
# Which commit this is: the source comes without its history. `cargo xtask image` tells.
ARG COMMIT=unknown
RUN --mount=type=cache,target=/root/.cargo/registry \
    --mount=type=cache,target=/source/target,sharing=locked \
    --mount=type=secret,id=certificates,target=/etc/ssl/certs/ca-certificates.crt \
    --mount=type=secret,id=cargo-config,target=/root/.cargo/config.toml \
    find reload-ebpf reload-userspace xtask -type f -exec touch {} + \
    && RELOAD_COMMIT="$COMMIT" cargo xtask build --release --static \
    && install target/*/release/reload-agent /reload-agent
# What a container is granted, others than root get by way of the file alone. By default that is KILL:
# so the agent may signal any process of its pod, and need not run as root for it. `p`: permitted, so
# that where nothing is granted it starts all the same. The agent makes them effective itself.
RUN setcap cap_kill,cap_bpf,cap_perfmon,cap_sys_ptrace,cap_dac_read_search=p /reload-agent

# --- The image.
FROM scratch
COPY --from=build /reload-agent /usr/local/bin/reload-agent

ARG VERSION=unknown
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="reload-agent" \
      org.opencontainers.image.description="Reload a process when its configuration has changed" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$COMMIT"

# Nobody in particular. Give it the uid of the process that it is to signal: then it needs no
# capability. By number, for only so can Kubernetes tell that it is not root (`runAsNonRoot`).
USER 65532:65532

# Would `run` work with this environment? It needs no shell. Kubernetes does not read it.
HEALTHCHECK --interval=60s --timeout=10s --start-period=5s \
    CMD ["/usr/local/bin/reload-agent", "doctor"]

# FILE, PROCESS and SIGNAL in the environment are enough; no argument is needed.
ENTRYPOINT ["/usr/local/bin/reload-agent"]
CMD ["run"]

# docker build -t sparsed . && docker run --rm --read-only -p 127.0.0.1:8080:8080 sparsed
# Two stages: what compiles stays behind. It runs as nobody, writes nothing, and needs neither a shell nor curl.
# BASE may be pinned by digest, or be an image of your own with Debian 12 (deploy/smoke.sh makes one by debootstrap).
ARG BASE=debian:12-slim

FROM ${BASE} AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev cmake ninja-build pkg-config python3 \
        libmicrohttpd-dev libcjson-dev libopenblas-dev libpng-dev zlib1g-dev libfreetype-dev fonts-dejavu-core \
    && rm -rf /var/lib/apt/lists/*
COPY . /source
RUN cmake -S /source -B /build -G Ninja -DCMAKE_BUILD_TYPE=Release -DBUILD_TESTING=OFF \
    && cmake --build /build --target sparsed \
    && cmake --install /build --prefix /opt/sparsed

FROM ${BASE}
RUN apt-get update \
    && apt-get install -y --no-install-recommends libmicrohttpd12 libcjson1 libopenblas0-pthread libpng16-16 zlib1g \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/sparsed /usr/local
USER 65534:65534
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s CMD ["/usr/local/bin/sparsed", "health"]
# Inside a container loopback is of no use; who may reach the port is decided where it is published. With keys, give
# --api-key-file in place of --insecure: deploy/compose.yaml, deploy/kubernetes/.
ENTRYPOINT ["/usr/local/bin/sparsed"]
CMD ["serve", "--host", "0.0.0.0", "--insecure"]

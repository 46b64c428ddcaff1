# syntax=docker/dockerfile:1
# The image of all roles. `docker build -t tidemill:dev .`; with programs for files (the pipeline video_to_mp3 needs ffmpeg):
# `docker build --build-arg PROGRAMS=ffmpeg -t tidemill:dev .`

FROM rust:1.95-trixie AS build
ENV CARGO_INCREMENTAL=0
WORKDIR /tidemill
COPY . .
# The caches outlive a build: a change of Tidemill does not build its libraries again. So the binary leaves them at once.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/usr/local/cargo/git \
    --mount=type=cache,target=/tidemill/target \
    cargo build --release --locked --bin tidemill && \
    install -D --strip target/release/tidemill /out/tidemill

FROM debian:trixie-slim
ARG PROGRAMS=""
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \
    --mount=type=cache,target=/var/lib/apt/lists,sharing=locked \
    rm -f /etc/apt/apt.conf.d/docker-clean && apt-get update && \
    apt-get install -y --no-install-recommends ca-certificates zlib1g ${PROGRAMS} && \
    useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent tidemill
COPY --from=build /out/tidemill /usr/local/bin/tidemill
# The shipped pipelines, to try things with. An image FROM this one brings its own and sets the variable to their folder.
COPY pipelines/*.yaml /usr/share/tidemill/pipelines/
ENV TIDEMILL_PIPELINES=/usr/share/tidemill/pipelines
USER 10001:10001
EXPOSE 8080 9464 5433
ENTRYPOINT ["tidemill"]
CMD ["--help"]

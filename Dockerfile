# One image for the operator, the EPP, the routing sidecar and the simulator.
FROM docker.io/library/rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends cmake clang && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --locked --release --bins

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/llm-d-operator /src/target/release/epp /src/target/release/routing-proxy /src/target/release/inference-sim /
# What the Go operator's manifests start.
COPY --from=build /src/target/release/llm-d-operator /manager
USER 65532:65532
ENTRYPOINT ["/llm-d-operator"]

# The same image as `make image` makes without Docker: millrace-broker, millrace-operator and millrace.
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
RUN apt-get update && apt-get install --yes --no-install-recommends gcc g++ make && rm -rf /var/lib/apt/lists/*
COPY . .
RUN cargo build --locked --profile dist --bins \
    && mkdir /out && cp target/dist/millrace-broker target/dist/millrace-operator target/dist/millrace /out/

FROM debian:bookworm-slim
# As image/root has it.
RUN echo 'nonroot:x:65532:65532:nonroot:/tmp:/sbin/nologin' >> /etc/passwd && echo 'nonroot:x:65532:' >> /etc/group
COPY --from=build /out/ /usr/local/bin/
USER 65532:65532
ENTRYPOINT ["millrace"]

# Only files: nothing runs here and nothing is pulled, so that any builder makes
# it, with or without a daemon. `make image` puts the programs, linked statically,
# into out/image, which is the build context.
#
# There is no shell, and no CA bundle: the programs carry the public roots and the
# time zones themselves, and take /etc/ssl/certs where you mount one.
FROM scratch
COPY . /
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/certherd"]
CMD ["run"]
LABEL org.opencontainers.image.title="certherd" \
      org.opencontainers.image.description="Keeps a cluster's TLS certificates few and its gateway calm" \
      org.opencontainers.image.source="https://github.com/certherd/certherd" \
      org.opencontainers.image.licenses="Apache-2.0"

# Law of this file: the image holds Offramp, git and what they need; it runs as nobody in particular,
# writes below /data, /run/offramp and /tmp only, and is built from what is here.
#
#   docker build -t offramp:0.1.0 .
#   docker build -t offramp:0.1.0-hg --build-arg PACKAGES="git mercurial" .   # to serve Mercurial, too

ARG BASE=python:3.11.11-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
# First what seldom changes.
COPY constraints.txt ./
RUN python -m venv /opt/offramp \
 && /opt/offramp/bin/pip install --no-cache-dir --disable-pip-version-check -c constraints.txt \
    setuptools wheel
COPY pyproject.toml README.md LICENSE ./
COPY wire wire
COPY redirects redirects
COPY stores stores
COPY repos repos
COPY cache cache
COPY indexer indexer
COPY server server
COPY client client
COPY cli cli
ARG EXTRAS=""
RUN /opt/offramp/bin/pip install --no-cache-dir --disable-pip-version-check -c constraints.txt \
    ".${EXTRAS}" \
 && /opt/offramp/bin/pip uninstall --yes --disable-pip-version-check setuptools wheel

FROM ${BASE}
ARG PACKAGES="git"
# Debian keeps only the newest version of a package of a release: one that is pinned here could not
# be installed after the next security update.
# hadolint ignore=DL3008,SC2086
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ${PACKAGES} \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 10001 offramp \
 && useradd --uid 10001 --gid offramp --home-dir /data --no-create-home --shell /usr/sbin/nologin \
    offramp \
 && install -d -o offramp -g offramp -m 0700 /data /run/offramp \
 && install -d -m 0755 /repositories
COPY --from=build /opt/offramp /opt/offramp

# These win over the settings file: where the image writes and listens is the image's business.
ENV PATH=/opt/offramp/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    OFFRAMP_DATA=/data \
    OFFRAMP_LISTEN=0.0.0.0:8417
# A volume takes the owner that its path has here, which Fargate gives in no other way.
VOLUME ["/data", "/run/offramp", "/tmp"]
WORKDIR /repositories
EXPOSE 8417
USER 10001:10001
# 38 seconds at most: answers that run are ended.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8417/-/livez', timeout=4)"]
ENTRYPOINT ["offramp"]
CMD ["serve"]

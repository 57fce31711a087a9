# docker build -t stn_jax . && docker run stn_jax
FROM python:3.13-slim
RUN apt-get update -qq \
  && apt-get install -y -qq --no-install-recommends git make chromium \
  && rm -rf /var/lib/apt/lists/*
WORKDIR /stn_jax
COPY pyproject.toml constraints.txt Makefile README.md LICENSE ./
COPY stn_jax stn_jax
RUN make .venv/installed
COPY . .
CMD ["make", "demo"]

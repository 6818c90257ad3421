# docker build -t costmodel . && docker run --rm costmodel simulate deepseek_v3
FROM python:3.12-slim
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY costmodel costmodel
COPY hardware hardware
COPY workloads workloads
RUN pip install --no-cache-dir '.[fast,tables]' && rm -rf /src
WORKDIR /work
ENTRYPOINT ["costmodel"]
CMD ["--help"]

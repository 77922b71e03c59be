# SPDX-License-Identifier: Apache-2.0
# docker build -t foldwright . && docker run --gpus all --ipc=host -v $PWD:/work foldwright train.py stage=structure
# torch's wheels bring their CUDA libraries; the driver is the host's. Triton needs a C compiler at run time.
FROM python:3.12-slim

RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/foldwright
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY configs configs
COPY src src
RUN pip install --no-cache-dir --constraint constraints.txt ".[prepare]"

WORKDIR /work
CMD ["train.py", "stage=structure"]

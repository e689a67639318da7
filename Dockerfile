# Unbuilt: no container engine was at hand. A test checks that its commands are the Makefile's.
#
#   docker build -t gateloop .                     torch with CUDA; run it with --gpus all
#   docker build -t gateloop --build-arg CPU=1 .   torch for the CPU, where the package index has it;
#                                                  PyTorch's own goes in --build-arg PIP_EXTRA_INDEX_URL=…
#   docker run --gpus all -v "$PWD/runs:/gateloop/runs" gateloop make run ARGS="seed=1"
FROM python:3.12

ARG CPU=
ARG PIP_EXTRA_INDEX_URL=
WORKDIR /gateloop

# first only what the installation reads, so that a change of the code fetches nothing again
COPY Makefile pyproject.toml setup.py constraints.txt README.md LICENSE ./
COPY gateloop/__init__.py gateloop/
RUN make install CPU=$CPU

COPY . .
CMD ["make", "run"]

# A server for one model, without a network when it runs:
#   docker build -t hf-selfattn .
#   docker run --rm -p 127.0.0.1:8000:8000 -v "$PWD/runs/mine:/model:ro" hf-selfattn
# PyTorch for CPUs alone, from its own index: --build-arg TORCH_INDEX=URL. Another command: docker run … hf-selfattn --help
FROM python:3.12-slim AS build
ARG TORCH_INDEX=
WORKDIR /source
RUN python -m venv /opt/venv
COPY constraints.txt ./
RUN /opt/venv/bin/pip install --no-cache-dir -c constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch
COPY pyproject.toml README.md LICENSE ./
COPY hf_selfattn hf_selfattn
RUN /opt/venv/bin/pip install --no-cache-dir -c constraints.txt ".[onnx,serve]"

FROM python:3.12-slim
RUN useradd --create-home --uid 10001 server
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
USER server
WORKDIR /home/server
EXPOSE 8000
HEALTHCHECK --start-period=120s CMD python -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/ready')"
ENTRYPOINT ["hf-selfattn"]
CMD ["serve", "/model", "host=0.0.0.0"]

# vLLM, to which serving's engine `upstream` speaks:  docker build -f images/serving/vllm.Dockerfile -t flywheel/vllm images
# Its own image, for its CUDA libraries are not ours to lock, and adapters loaded while it runs. Started with the base model's folder:
#   docker run --gpus all --read-only --tmpfs /tmp -v store:/scratch:ro flywheel/vllm /scratch/base --served-model-name base --max-lora-rank 64
ARG VLLM=vllm/vllm-openai:v0.11.0
FROM ${VLLM}
LABEL org.opencontainers.image.title="flywheel/vllm" \
      org.opencontainers.image.description="vLLM for the fine-tuning flywheel's serving" \
      org.opencontainers.image.licenses="Apache-2.0"
# Nothing is fetched at start, nothing is told to anybody, and caches lie in /tmp
ENV HOME=/tmp HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 VLLM_ALLOW_RUNTIME_LORA_UPDATING=True
USER 1000:1000
ENTRYPOINT ["vllm", "serve", "--enable-lora", "--host", "0.0.0.0", "--port", "8000"]
EXPOSE 8000
HEALTHCHECK --interval=10s --start-period=600s CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health')"]

# The page in a container: docs/deploy.md
FROM python:3.11-slim

# For pip alone, as an index of torch without CUDA
ARG PIP_EXTRA_INDEX_URL
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1

WORKDIR /app
COPY requirements.txt ./
RUN pip install --no-cache-dir --requirement requirements.txt

COPY app.py LICENSE SECURITY.md ./
COPY docs docs
COPY checkpoints checkpoints
COPY examples examples
COPY ctscan ctscan

RUN useradd --system ctscan
USER ctscan
ENV GRADIO_SERVER_NAME=0.0.0.0
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=90s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/health', timeout=4)"]
CMD ["python", "app.py"]

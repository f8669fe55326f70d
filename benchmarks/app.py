"""The app from outside: start, one request, memory. `python -m benchmarks.app` (Linux: reads /proc).

- `python app.py` until its first answer / the time to import torch, torchvision and gradio
- one /classify request / the bare forward pass
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import torch

from benchmarks.timing import print_ratio
from ctscan.bundle import bundled
from ctscan.imaging.phantom import draw_phantom
from ctscan.model.checkpoint import read_checkpoint
from ctscan.model.runtime import build_net

ROOT = Path(__file__).parent.parent
IMPORTS = "import torch, torchvision, gradio"
START_LIMIT = 120  # s


def free_port() -> int:
    """A port that nothing listens on now."""
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def classify(address: str, picture: bytes) -> dict[str, object]:
    """Upload, call /classify, wait for its answer: the three requests that a client makes."""
    mark = "ctscan-benchmark"
    part = f'--{mark}\r\nContent-Disposition: form-data; name="files"; filename="slice"\r\n\r\n'
    body = part.encode() + picture + f"\r\n--{mark}--\r\n".encode()
    path = send(f"{address}/gradio_api/upload", body, f"multipart/form-data; boundary={mark}")[0]
    data = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}]}
    event = send(f"{address}/gradio_api/call/classify", json.dumps(data).encode(), "application/json")["event_id"]
    with urllib.request.urlopen(f"{address}/gradio_api/call/classify/{event}", timeout=30) as stream:
        last = stream.read().decode().rstrip().rpartition("data: ")[2]
    answer: dict[str, object] = json.loads(last)[0]
    return answer


def send(url: str, body: bytes, kind: str):  # type: ignore[no-untyped-def]  # whatever JSON comes back
    """POST and parse the JSON of the answer."""
    request = urllib.request.Request(url, body, {"Content-Type": kind})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


@contextmanager
def running_app(picture: bytes, python: str = sys.executable, *flags: str) -> Iterator[tuple[str, int]]:
    """Start app.py, wait for its first answer, give its address and process id."""
    port = free_port()
    command = [python, str(ROOT / "app.py"), "--port", str(port), *flags]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for_answer(address, picture, process)
        yield address, process.pid
    finally:
        process.terminate()
        process.wait()


def wait_for_answer(address: str, picture: bytes, process: subprocess.Popen[bytes]) -> None:
    """Ask until the app answers."""
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if classify(address, picture)["verdict"] == "ok":
                return
        except OSError:
            time.sleep(0.05)
    raise SystemExit("benchmarks.app: app.py gave no answer")


def peak_memory(pid: int) -> float:
    """MiB: the highest resident memory of a process so far."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024


def start_and_stop(picture: bytes, python: str = sys.executable, *flags: str) -> None:
    """From nothing to the first answer; the stop is counted too and takes no time to speak of."""
    with running_app(picture, python, *flags):
        pass


def main() -> None:
    """Print the ratios and the app's peak memory."""
    picture = min(bundled("examples").glob("*.png")).read_bytes()  # a phantom would be refused before the network
    checkpoint = read_checkpoint(bundled("checkpoints/resnet18.safetensors"))
    net = build_net(checkpoint).eval()
    tensor = torch.from_numpy(checkpoint.card.preprocess(draw_phantom())[0][None])

    def bare() -> None:
        with torch.inference_mode():
            net(tensor)

    def imports() -> None:
        subprocess.run([sys.executable, "-c", IMPORTS], check=True)

    print_ratio("app.py until its first answer / imports", lambda: start_and_stop(picture), imports, rounds=3)
    with running_app(picture) as (address, pid):
        print_ratio("one /classify request / bare forward pass", lambda: classify(address, picture), bare, rounds=30)
        print(f"peak memory of the app: {peak_memory(pid):.0f} MiB")


if __name__ == "__main__":
    main()

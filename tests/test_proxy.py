"""The app behind Debian's nginx with TLS, in the configuration that docs/deploy.md gives."""

from __future__ import annotations

import json
import re
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from gradio_client import Client, handle_file

from ctscan.page.door import MAX_BYTES
from tests.conftest import ANSWERED, ROOT, App, free_port, running_app, wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NGINX, OPENSSL = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin"), shutil.which("openssl")
(SERVER,) = re.findall(r"```nginx\n(.*?)```", (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8"), re.DOTALL)
EXAMPLE = min((ROOT / "examples").glob("*.png"))
KIND = {"Content-Type": "application/octet-stream"}
AROUND = """
error_log {folder}/error.log warn;
pid {folder}/pid;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {server}
}}
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (NGINX and OPENSSL), reason="nginx or openssl is not installed (Debian: apt-get install)"),
]


@dataclass(frozen=True)
class Site:
    """The app as visitors reach it."""

    address: str  # with a slash at its end
    trust: ssl.SSLContext
    log: Path  # nginx's, warnings and worse

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body."""
        return self.open(path, None)[::2]

    def post(self, path: str, body: bytes) -> dict[str, Any]:
        """The JSON of an answer."""
        status, _, said = self.open(path, body)
        assert status == 200, said
        answer: dict[str, Any] = json.loads(said)
        return answer

    def open(self, path: str, body: bytes | None) -> tuple[int, Message, bytes]:
        """Status, headers and body, of refusals too."""
        request = urllib.request.Request(self.address + path, body, KIND if body else {})
        try:
            with urllib.request.urlopen(request, timeout=60, context=self.trust) as response:
                return response.status, response.headers, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read()


@contextmanager
def behind_nginx(app: App, folder: Path, path: str = "/", *, cut: bool = False, change: str = "") -> Iterator[Site]:
    """nginx before the app until the block ends; `change` takes the place of the line that begins as it does."""
    assert NGINX
    assert OPENSSL
    certificate, key, port = folder / "site.pem", folder / "site.key", free_port()
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    make = [OPENSSL, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names]
    subprocess.run([*make, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    server = SERVER
    scans = "location {}series {{\n        proxy_pass {};"
    for theirs, ours in {
        scans.format("/", "http://127.0.0.1:7860"): scans.format(path, f"{app.address}{'/series' * cut}"),
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "/etc/ssl/certs/ctscan.pem": str(certificate),
        "/etc/ssl/private/ctscan.key": str(key),
        "location / {": f"location {path} {{",
        "http://127.0.0.1:7860;": f"{app.address}{'/' * cut};",
    }.items():
        assert server.count(theirs) == 1, theirs
        server = server.replace(theirs, ours)
    if change:
        server, changed = re.subn(rf"{change.split()[0]} [^;]*;", change, server)
        assert changed
    (folder / "nginx.conf").write_text(AROUND.format(folder=folder, server=server), encoding="utf-8")
    command = [NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    log = folder / "error.log"
    with subprocess.Popen([*command, "-g", "daemon off; master_process off;"], stderr=subprocess.DEVNULL) as nginx:
        try:
            wait_until(lambda: nginx.poll() is not None or is_open(port))
            assert nginx.poll() is None, log.read_text(encoding="utf-8")
            yield Site(f"https://127.0.0.1:{port}{path}", ssl.create_default_context(cafile=certificate), log)
        finally:
            nginx.terminate()


def is_open(port: int) -> bool:
    """Whether somebody listens there."""
    with closing(socket.socket()) as visitor:
        return visitor.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def app_below(best_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The app that is told of a sub-path."""
    flags = ("--root-path", "/ctscan")
    with running_app(best_checkpoint, tmp_path_factory.mktemp("below"), flags=flags) as running:
        yield running


@pytest.fixture(scope="module", params=["the root", "a path cut off", "a path kept"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    app: App = request.getfixturevalue("app" if request.param == "the root" else "app_below")
    path = "/" if request.param == "the root" else "/ctscan/"
    with behind_nginx(app, tmp_path_factory.mktemp("nginx"), path, cut=request.param == "a path cut off") as reached:
        yield reached
        assert "temporary file" not in reached.log.read_text(encoding="utf-8")  # nginx wrote nothing of it all to disk


def test_the_page_and_its_health(site: Site) -> None:
    status, page = site.get("")
    assert status == 200
    for found in re.findall(r'(?:src|href)="((?:static|picture)/[^"]+)"', page.decode()):
        assert site.get(found)[0] == 200, found
    assert json.loads(site.get("health")[1])["status"] == "ok"


def test_a_slice_is_answered_and_covered(site: Site) -> None:
    assert site.post("answer", EXAMPLE.read_bytes())["state"] == json.loads(site.get("example/0")[1])["state"]
    there = site.post("cover?at=150,150,20", EXAMPLE.read_bytes())
    assert there == site.post("cover?example=0&at=150,150,20", b"")


@pytest.mark.parametrize("site", ["the root"], indirect=True)  # where nginx passes it on, it does so everywhere
def test_the_lines_of_a_check_come_one_by_one(site: Site) -> None:
    begun, came = time.monotonic(), []
    asked = urllib.request.Request(f"{site.address}check", EXAMPLE.read_bytes(), KIND)
    with urllib.request.urlopen(asked, timeout=120, context=site.trust) as response:
        for line in response:
            json.loads(line)
            came.append(time.monotonic() - begun)
    assert len(came) >= 13
    assert came[-1] - came[0] > came[-1] / 2  # all at the end, or the first of them long before the last


def test_a_program_asks_as_it_does_without_a_proxy(site: Site) -> None:
    client = Client(site.address, verbose=False, ssl_verify=False)
    answer, overlay = client.predict(handle_file(EXAMPLE), api_name="/classify")
    assert answer["verdict"] == "ok"
    assert Path(overlay).read_bytes().startswith(b"\x89PNG")


def test_nginx_lets_pass_what_the_app_takes_and_no_more(site: Site) -> None:
    assert site.post("answer", bytes(MAX_BYTES))["state"] == "unreadable"
    assert site.open("answer", bytes(2 * MAX_BYTES))[0] == 413
    assert site.post("series", bytes(2 * MAX_BYTES))["state"] == "unreadable"


def test_a_browser_asks_over_tls(site: Site, browser: Browser) -> None:
    with closing(browser.new_context(ignore_https_errors=True)) as context:
        page = context.new_page()
        broken: list[str] = []
        page.on("requestfailed", lambda request: broken.append(request.url))
        page.on("pageerror", lambda error: broken.append(str(error)))
        page.goto(site.address)
        page.set_input_files("#file", EXAMPLE)
        page.wait_for_function("document.querySelector('.example[aria-current]') === null")
        page.locator("#answer [data-headline]", has_text=ANSWERED).wait_for()
        assert broken == []


def test_a_refusal_of_nginx_is_said_on_the_page(app: App, browser: Browser, tmp_path: Path) -> None:
    with (
        behind_nginx(app, tmp_path, change="client_max_body_size 1k;") as site,
        closing(browser.new_context(ignore_https_errors=True)) as context,
    ):
        status, headers, _ = site.open("answer", EXAMPLE.read_bytes())
        assert (status, "ctscan-reason" in headers) == (413, False)  # nginx itself
        page = context.new_page()
        page.goto(site.address)
        page.set_input_files("#file", EXAMPLE)
        page.locator("#answer", has_text="larger than").wait_for()

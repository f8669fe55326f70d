"""Files in an object store give the rows that they give on this machine; what cannot be had there is said in a line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem

from ctscan.batch import list_files
from ctscan.cli import main
from tests.conftest import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.png"))[:3]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Slices in a bucket of a store on this machine; a folder below holds one of them again."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    told = {"ACCESS_KEY_ID": "one", "SECRET_ACCESS_KEY": "two", "ENDPOINT_URL": f"http://{host}:{port}"}
    for name, value in (told | {"DEFAULT_REGION": "us-east-1", "EC2_METADATA_DISABLED": "true"}).items():
        monkeypatch.setenv(f"AWS_{name}", value)
    S3FileSystem.clear_instance_cache()  # of the store before
    store = boto3.client("s3")
    store.create_bucket(Bucket="slices")
    for file in EXAMPLES:
        store.put_object(Bucket="slices", Key=f"ward 1/{file.name}", Body=file.read_bytes())
    store.put_object(Bucket="slices", Key="ward 1/below/ä #1.png", Body=EXAMPLES[0].read_bytes())
    store.put_object(Bucket="slices", Key="ward 1/Thumbs.db", Body=b"x")
    store.put_object(Bucket="slices", Key="ward 1/broken.png", Body=EXAMPLES[0].read_bytes()[:900])
    yield "s3://slices"
    server.stop()


def test_a_bucket_gives_the_rows_of_a_folder(bucket: str, tmp_path: Path) -> None:
    folder = tmp_path / "ward 1"
    (folder / "below").mkdir(parents=True)
    for file in EXAMPLES:
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "below" / "ä #1.png").write_bytes(EXAMPLES[0].read_bytes())
    (folder / "broken.png").write_bytes(EXAMPLES[0].read_bytes()[:900])
    tables = []
    for number, path in enumerate((f"{bucket}/ward 1", f"{folder}")):
        out = tmp_path / f"{number}.jsonl"
        assert main(["predict", path, "--out", str(out), "--recursive"]) == 0
        tables.append([json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()])
    ours, theirs = ({row.pop("path").split("ward 1/")[1]: row for row in table} for table in tables)
    assert len(ours) == len(EXAMPLES) + 2
    assert ours == theirs
    assert len(list_files([bucket + "/ward 1/"], recursive=False)) == len(EXAMPLES) + 1


@pytest.mark.slow
def test_workers_of_a_cluster_read_the_bucket_themselves(bucket: str, tmp_path: Path) -> None:
    tables = []
    for engine in ("here", "ray"):
        out = tmp_path / f"{engine}.jsonl"
        command = [sys.executable, "-m", "ctscan", "predict", f"{bucket}/ward 1", "--recursive", "--out", str(out)]
        subprocess.run([*command, "--engine", engine, "--threads", "2", "--batch", "2"], cwd=ROOT, check=True)
        tables.append([json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()])
    assert len(tables[0]) == len(EXAMPLES) + 2
    for ours, theirs in zip(*tables, strict=True):
        assert (ours.pop("probabilities") or {}) == pytest.approx(theirs.pop("probabilities") or {}, abs=1e-5)
        assert ours == theirs


def test_a_file_that_is_not_in_the_bucket_is_a_row_and_one_that_is_an_answer(
    bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", f"{bucket}/ward 1/none.png", f"{bucket}/ward 1/{EXAMPLES[0].name}"]) == 2
    given = capsys.readouterr()
    assert [json.loads(line)["verdict"] for line in given.out.splitlines()] == ["unreadable", "ok"]
    assert given.err == f"ctscan: {bucket}/ward 1/none.png: No such file or bucket.\n"


def test_what_cannot_be_had_is_one_line(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(path: str) -> str:
        assert main(["predict", path, "--out", str(tmp_path / "x.csv")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "No such file or bucket" in said("s3://none/x")
    boto3.client("s3").create_bucket(Bucket="empty")
    assert "no file" in said("s3://empty")
    assert main(["predict", f"{bucket}/ward 1", "--series"]) == 2
    assert "--series" in capsys.readouterr().err

    monkeypatch.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0.0)  # from now on keys are looked at
    assert "Access is refused" in said(bucket)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    assert said(bucket).endswith("s3fs is not installed: `pip install -r requirements-ray.txt` brings it.")

"""SECURITY.md names tests that exist, and the advisories are those of the versions that are pinned."""

from __future__ import annotations

import ast
import re
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NAMED = re.findall(r"`(tests/\w+\.py)::(\w+)`", (ROOT / "SECURITY.md").read_text(encoding="utf-8"))
REQUIREMENTS = ("requirements.txt", "requirements-onnx.txt")


def pins(name: str) -> dict[str, str]:
    """Package -> version, of one file."""
    return dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE))


def looked_up() -> dict[str, str]:
    """Package -> version, of the table of advisories and of the lists below it."""
    text = (ROOT / "docs" / "advisories.md").read_text(encoding="utf-8")
    return dict(re.findall(r"\b([a-z][\w-]+) (?:\| )?(\d[\w.]*\w)(?: \||,|\.\s)", text))


@pytest.mark.parametrize(("file", "test"), sorted(set(NAMED)))
def test_every_test_that_is_named_exists(file: str, test: str) -> None:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_many_are_named() -> None:
    assert len(NAMED) > 30


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_what_is_pinned_was_looked_up_in_that_version(name: str) -> None:
    assert pins(name).items() <= looked_up().items()


def test_both_ways_to_install_pin_alike() -> None:
    torch, onnx = map(pins, REQUIREMENTS)
    assert all(torch[package] == onnx[package] for package in torch.keys() & onnx.keys())
    for package in ("starlette", "python-multipart", "h11"):  # they read requests, and Gradio accepts flawed ones
        assert torch[package] == onnx[package] == version(package)

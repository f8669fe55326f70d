"""The words of the page: that all of them stand in the catalogue."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ctscan.bundle import MODEL, bundled
from ctscan.model.card import INTENDED_USE
from ctscan.model.checkpoint import read_checkpoint
from ctscan.notices import catalogue
from tests.conftest import ROOT

TEMPLATES = sorted((ROOT / "ctscan" / "page" / "templates").glob("*.j2"))


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name.split(".")[0])
def test_no_sentence_stands_in_a_template(path: Path) -> None:
    assert TEMPLATES
    source = re.sub(r"{#.*?#}|{%.*?%}|{{.*?}}", "", path.read_text(encoding="utf-8"), flags=re.S)
    words = re.findall(r"[^\W\d_]+", re.sub(r"<[^>]*>", " ", source))
    assert set(words) <= {"M", "G", "O", "C"}  # keys of the keyboard
    named = re.findall(r'(?:alt|title|aria-label|placeholder)="([^"]*)"', source)
    assert not re.search(r"[^\W\d_]", " ".join(named))


def test_the_intended_use_is_that_of_the_card() -> None:
    assert catalogue()["page"]["about"]["use"]["text"] == INTENDED_USE
    assert read_checkpoint(bundled(MODEL)).card.intended_use == INTENDED_USE

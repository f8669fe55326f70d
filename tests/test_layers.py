"""Who may import whom: the arrow of imports is the arrow of data. This table is its documentation."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "ctscan"

# module -> what it may import inside ctscan
INSIDE: dict[str, set[str]] = {
    "__init__": {"classifier", "slices"},
    "tiff": set(),
    "headers": {"tiff"},
    "classes": set(),
    "phantom": set(),
    "metrics": set(),
    "anatomy": set(),
    "ledger": set(),
    "figures": set(),
    "trials": {"figures", "markdown"},
    "conformal": set(),
    "calibration": {"metrics"},
    "histogram": {"anatomy"},
    "markdown": set(),
    "preprocess": {"anatomy", "histogram"},
    "slices": {"headers", "tiff"},
    "decoder": {"headers", "slices"},
    "card": {"classes", "preprocess"},
    "sealed": set(),
    "checkpoint": {"card", "sealed"},
    "model": {"card"},
    "gradcam": {"model"},
    "runtime": {"checkpoint", "model", "gradcam", "sealed"},
    "onnx_file": {"card", "checkpoint", "sealed"},
    "onnx_runtime": {"card", "checkpoint", "runtime"},
    "rules": {"slices"},
    "shortcut": {"anatomy", "preprocess"},
    "gate": {"anatomy", "metrics", "preprocess", "rules", "runtime", "slices"},
    "gate_file": {"card", "checkpoint", "gate", "sealed"},
    "classifier": {"calibration", "card", "checkpoint", "conformal", "gate", "gate_file", "onnx_file", "onnx_runtime"}
    | {"phantom", "preprocess", "runtime", "slices"},
    "answer": {"classifier", "shortcut", "slices"},
    "render": {"slices"},
    "augmentation": set(),
    # data and training
    "data": {"anatomy", "classes", "slices"},
    "control": {"anatomy", "preprocess"},
    "config": {"augmentation", "card", "control", "preprocess"},
    "blocks": {"model"},
    "mixup": set(),
    "training": {"augmentation", "blocks", "card", "classes", "classifier", "config", "data", "gradcam", "metrics"}
    | {"mixup", "model", "phantom", "runtime", "slices"},
    "graph": {"model"},
    "export": {"calibration", "card", "checkpoint", "graph", "model", "onnx_file", "onnx_runtime", "phantom"}
    | {"preprocess", "runtime", "sealed", "slices"},
    "quantisation": {"card", "classifier", "data", "metrics", "onnx_file", "onnx_runtime", "phantom", "slices"},
    "run_folder": {"config", "training"},
    # what the numbers are worth
    "manifest": {"anatomy", "classes", "data"},
    "audit": {"anatomy", "classes", "data", "manifest", "slices"},
    "audit_report": {"audit", "classes", "render", "slices"},
    "cross_validation": {"checkpoint", "config", "manifest", "model", "runtime", "training"},
    "search": {"calibration", "classes", "config", "cross_validation", "evaluation", "manifest", "metrics"}
    | {"training", "trials"},
    "evaluation": {"metrics"},
    "gate_fit": {"anatomy", "gate", "rules", "runtime", "slices"},
    "gate_measure": {"gate", "gate_fit"},
    "gate_study": {"card", "checkpoint", "classes", "classifier", "config", "cross_validation", "data", "evaluation"}
    | {"gate_file", "gate_fit", "gate_measure", "manifest", "runtime", "shortcut", "slices"},
    "gate_words": set(),
    "volumes": {"anatomy", "data"},
    "faithfulness": {"anatomy", "blocks", "checkpoint", "classes", "evaluation", "model", "preprocess", "runtime"}
    | {"volumes"},
    "volume_reading": {"anatomy", "classes", "classifier", "gate", "gate_measure", "metrics", "runtime", "slices"}
    | {"volumes"},
    "confidence": {"calibration", "conformal", "evaluation", "metrics"},
    "findings": {"control", "evaluation", "figures", "preprocess"},
    "goals": {"figures", "findings", "preprocess", "results"},
    "tries": {"figures", "findings", "results"},
    "grouping_words": {"classes", "figures", "findings", "results"},
    "confidence_words": {"classes", "figures", "results"},
    "map_words": {"figures", "results"},
    "volume_words": {"map_words", "results"},
    "chapters": {"confidence_words", "goals", "map_words", "markdown", "results", "tries", "trials", "volume_words"},
    "plots": {"evaluation", "metrics"},
    "results": {"card", "ledger"},
    "data_card": {"classes", "markdown", "results"},
    "model_card": {"card", "chapters", "classes", "confidence_words", "data_card", "figures", "gate_words", "goals"}
    | {"grouping_words", "ledger", "markdown", "results", "trials"},
    "report": {"chapters", "checkpoint", "confidence_words", "data_card", "figures", "gate_words", "goals", "ledger"}
    | {"grouping_words", "markdown", "model_card", "results"},
    "__main__": {"answer", "audit", "audit_report", "checkpoint", "classifier", "data", "export", "gate_fit"}
    | {"gate_study", "gate_words", "ledger", "manifest", "quantisation", "report", "runtime"},
}
# runtime inside its functions only
TORCH = {"model", "gradcam", "blocks", "mixup", "faithfulness", "runtime", "augmentation", "training"}
TORCH |= {"cross_validation", "graph", "export"}


def imports(path: Path) -> tuple[set[str], set[str]]:
    """The modules of ctscan that a file imports, and the top-level names of all others."""
    inside, outside = set(), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"ctscan.{a.name}" for a in node.names] if node.module == "ctscan" else [node.module]
        for name in names:
            head, _, rest = name.partition(".")
            if head == "ctscan":
                inside.add(rest.partition(".")[0])
            else:
                outside.add(head)
    return inside, outside


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda p: p.stem)
def test_modules_import_what_their_row_says(path: Path) -> None:
    inside, outside = imports(path)
    assert inside <= INSIDE[path.stem]
    assert "gradio" not in outside
    if path.stem not in TORCH:
        assert not outside & {"torch", "torchvision"}


def test_the_table_has_no_dead_rows_and_no_cycle() -> None:
    assert set(INSIDE) == {p.stem for p in PACKAGE.glob("*.py")}
    done: set[str] = set()
    while len(done) < len(INSIDE):
        ready = {m for m, needs in INSIDE.items() if m not in done and needs <= done}
        assert ready, f"a cycle among {set(INSIDE) - done}"
        done |= ready


def test_the_page_takes_from_the_package_only_what_it_shows() -> None:
    allowed = {
        "answer",
        "card",
        "chapters",
        "classes",
        "classifier",
        "figures",
        "findings",
        "gate_words",
        "goals",
        "grouping_words",
        "metrics",
        "page",
        "render",
        "results",
    }
    allowed |= {"slices"}
    for path in (PACKAGE / "page").glob("*.py"):
        inside, outside = imports(path)
        assert inside <= allowed, path.name
        assert not outside & {"torch", "torchvision", "PIL"}, path.name


def test_reading_preprocessing_and_rendering_run_without_torch() -> None:
    program = (
        "import sys; import ctscan, ctscan.slices, ctscan.preprocess, ctscan.checkpoint, ctscan.metrics;"
        "import ctscan.render, ctscan.classifier, ctscan.answer, ctscan.calibration, ctscan.conformal;"
        "import ctscan.chapters, ctscan.findings;"
        "sys.exit(any(m in sys.modules for m in ('torch', 'torchvision', 'onnxruntime', 'gradio', 'sklearn', 'scipy')))"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


def test_no_pickle_and_no_blanket_exception_anywhere() -> None:
    for path in [*PACKAGE.rglob("*.py"), *ROOT.glob("*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert not imports(path)[1] & {"pickle", "joblib", "dill", "shelve"}, path.name
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler):
                caught = ast.unparse(node.type) if node.type else "everything"
                assert caught not in ("everything", "Exception", "BaseException"), f"{path.name}:{node.lineno}"
            if isinstance(node, ast.Attribute):
                assert ast.unparse(node) not in ("torch.load", "torch.save"), path.name

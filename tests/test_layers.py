"""Who may import whom: the arrow of imports is the arrow of data. This table is its documentation."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "ctscan"

# wing -> the wings that it may import; what stands further down takes from what stands further up
WINGS: dict[str, set[str]] = {
    "base": set(),  # the modules of the package itself that import no wing, in `BASE` below
    "imaging": {"base"},
    "io": {"base", "imaging"},
    "model": {"base", "imaging"},
    "inference": {"base", "imaging", "io", "model"},
    "training": {"base", "imaging", "io", "model", "inference"},
    "results": {"base", "model"},
    "evaluation": {"base", "imaging", "io", "model", "inference", "training", "results"},
    "page": {"base", "imaging", "io", "model", "inference", "results"},
    "front": {"base", "imaging", "io", "model", "inference", "training", "results", "evaluation", "page"},
}
BASE = {"bundle", "classes", "cores", "errors", "files", "metrics", "notices"}
# What only some wings may know of, besides the front; torch also inside functions of the runtime.
OUTSIDE = {
    "torch": {"model", "training", "evaluation"},
    "torchvision": {"model", "training"},
    "gradio": {"page"},
    "scipy": {"evaluation"},
    "sklearn": {"training", "evaluation"},
}


def wing_of(path: Path) -> str:
    """The folder of a module; the package's own modules are base or front."""
    folder = path.parent.name
    return folder if folder != "ctscan" else ("base" if path.stem in BASE else "front")


def imports(path: Path) -> tuple[set[str], set[str]]:
    """The wings that a file imports, and the top-level names of all other packages."""
    inside, outside = set(), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"ctscan.{a.name}" for a in node.names] if node.module == "ctscan" else [node.module]
        for name in names:
            head, *rest = name.split(".")
            if head != "ctscan":
                outside.add(head)
            elif rest:
                inside.add("base" if rest[0] in BASE else rest[0] if rest[0] in WINGS else "front")
    return inside, outside


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_modules_import_what_the_row_of_their_wing_says(path: Path) -> None:
    wing = wing_of(path)
    inside, outside = imports(path)
    assert inside <= WINGS[wing] | {wing}
    for package, known in OUTSIDE.items():
        assert wing in known | {"front"} or package not in outside, package


@pytest.mark.parametrize("stem", sorted(BASE))
def test_base_modules_need_numpy_at_most(stem: str) -> None:
    _, outside = imports(PACKAGE / f"{stem}.py")
    assert outside <= sys.stdlib_module_names | {"numpy"}


def test_every_wing_has_a_row_and_the_rows_are_in_the_order_of_the_data() -> None:
    assert {p.name for p in PACKAGE.iterdir() if (p / "__init__.py").exists()} == set(WINGS) - {"base", "front"}
    done: set[str] = set()
    for wing, needs in WINGS.items():
        assert needs <= done, wing
        done.add(wing)


def test_reading_preprocessing_and_rendering_run_without_torch() -> None:
    program = (
        "import sys; import ctscan, ctscan.io.images, ctscan.imaging.preprocess, ctscan.model.checkpoint;"
        "import ctscan.imaging.render, ctscan.inference.classifier, ctscan.metrics;"
        "import ctscan.results.summary, ctscan.training.recipe;"
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

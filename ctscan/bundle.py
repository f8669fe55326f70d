"""What travels with ctscan besides its code: the checkpoint with its figures, and the example slices."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parent
MODEL = "checkpoints/resnet18.safetensors"


def bundled(name: str) -> Path:
    """The path of a file or folder that ctscan brings along.

    An installed package holds it inside itself, a checkout beside the package: that is the order of the search.

    Args:
        name: Path below either of them, such as `checkpoints/resnet18.safetensors` or `examples`.

    Returns:
        The first that exists; where none does, the place in the checkout, for a message to name.
    """
    inside = PACKAGE / name
    return inside if inside.exists() else PACKAGE.parent / name


def remedy(part: str = "") -> str:
    """What to do where a package is missing: a checkout has files of requirements, an installed package has extras.

    Args:
        part: The extra, `train`, `onnx` or `ray`; empty for what the page needs.
    """
    file, extra = f"requirements{part and f'-{part}'}.txt", f"'ctscan{part and f'[{part}]'}'"
    return f"`pip install {f'-r {file}' if (PACKAGE.parent / file).exists() else extra}` brings it"

"""What a page fetches besides answers: files under addresses that name their content, which browsers keep for good."""

from __future__ import annotations

import io
from hashlib import sha256
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

from ctscan.bundle import PACKAGE, bundled
from ctscan.imaging.render import Picture, encode_png

STATIC = Path(__file__).parent / "static"
MODEL_CARD = "checkpoints/README.md"
# What is to be read about ctscan, and under what name; an installed package brings only some of it.
TEXTS = {
    MODEL_CARD: "model-card.md",
    "checkpoints/DATA.md": "data-card.md",
    "docs/evaluation.md": "evaluation.md",
    "docs/api.md": "api.md",
    "SECURITY.md": "security.md",
    "LICENSE": "licence.txt",
}
CODE = "ctscan.zip"
WRITTEN = {".py", ".j2", ".js", ".css", ".svg", ".json"}  # suffixes of code, and of the words that it reads


class Assets:
    """Scripts, styles and texts as the package brings them, and pictures of examples as they are published.

    Args:
        model_id: Whose card may be among the texts; that of another model is not.

    Attributes:
        files: Bytes by address, without the version that follows some.
        versions: Of scripts and styles by name.
        texts: Addresses, versions and all, by the path of a text.
    """

    def __init__(self, model_id: str) -> None:
        static = {path.name: path.read_bytes() for path in STATIC.iterdir()}
        self.versions = {name: digest(data) for name, data in static.items()}
        for module in (name for name in static if name.endswith(".js")):  # modules name each other by version too
            named = f'"./{module}?{self.versions[module]}"'.encode()
            static = {name: data.replace(f'"./{module}"'.encode(), named) for name, data in static.items()}
        texts = {path: bundled(path).read_bytes() for path in TEXTS if bundled(path).is_file()}
        if model_id.encode() not in texts.get(MODEL_CARD, b""):
            texts.pop(MODEL_CARD, None)
        texts[CODE] = pack_code()
        names = TEXTS | {CODE: CODE}
        self.texts = {path: f"text/{names[path]}?{digest(data)}" for path, data in texts.items()}
        self.files = {f"static/{name}": data for name, data in static.items()}
        self.files |= {f"text/{names[path]}": data for path, data in texts.items()}

    def publish(self, picture: Picture) -> str:
        """Keep a picture of an example, never of a visitor, and give its address."""
        data = encode_png(picture)
        name = f"picture/{digest(data)}.png"
        self.files[name] = data
        return name


def pack_code() -> bytes:
    """The package as it runs here, as a zip."""
    packed = io.BytesIO()
    with ZipFile(packed, "w", ZIP_DEFLATED, strict_timestamps=False) as archive:  # an image may be built in 1970
        for path in sorted(path for path in PACKAGE.rglob("*") if path.suffix in WRITTEN):
            archive.write(path, path.relative_to(PACKAGE.parent))
    return packed.getvalue()


def digest(data: bytes) -> str:
    """What stands in an address, so that it names a file's content."""
    return sha256(data).hexdigest()[:12]

"""One slice, from its file to its answer, beside what one would otherwise take: `python -m benchmarks.rivals`

- ctscan: the file read in a process of its own, the gate, four scores and four maps
- a script of Pillow, torchvision and the library grad-cam: four scores and one map; the library for all four
- the pipeline `image-classification` of transformers: four scores, and no map; measured where transformers is
  installed (5.24.0 was), which nothing else here needs

All three run the shipped model's ResNet18 with its weights in fp32, on the processor. The others squash the picture and
pool over all of it, as such scripts do: their scores are not ours, and do not matter to the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import torch
from PIL import Image
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.transforms import v2

from benchmarks.timing import parser, print_ratio
from ctscan.bundle import MODEL, bundled
from ctscan.classes import CLASS_KEYS
from ctscan.inference.classifier import load
from ctscan.io.sandbox import Decoder
from ctscan.model.checkpoint import read_checkpoint
from ctscan.model.network import IMAGENET_MEAN, IMAGENET_STD
from ctscan.model.runtime import build_net

SIDE = 224
SAME = 1e-3  # logit units, between two libraries with the same weights
Weights = dict[str, Tensor]


def shipped_weights() -> Weights:
    """The shipped model's, by torchvision's names."""
    net = build_net(read_checkpoint(bundled(MODEL)))
    head = next(layer for layer in net.head if isinstance(layer, nn.Linear))
    return {**net.trunk.state_dict(), **{f"fc.{name}": values for name, values in head.state_dict().items()}}


def make_script(weights: Weights) -> Callable[[Path, Sequence[int] | None], Tensor]:
    """A function of a file and the classes to explain, None for the likeliest; gives the logits (K,)."""
    net = resnet18(num_classes=len(CLASS_KEYS))
    net.load_state_dict(weights)
    net.eval()
    see = v2.Compose(
        [
            v2.Resize((SIDE, SIDE)),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    cam = GradCAM(model=net, target_layers=[net.layer4[-1]])

    def answer(file: Path, classes: Sequence[int] | None = None) -> Tensor:
        with Image.open(file) as picture:
            square = see(picture.convert("RGB"))[None]
        with torch.inference_mode():
            logits: Tensor = net(square)[0]
        for index in classes if classes is not None else [int(logits.argmax())]:
            cam(square, [ClassifierOutputTarget(index)])
        return logits

    return answer


def make_pipeline(weights: Weights) -> Callable[[Path], list[dict[str, float]]]:
    """The pipeline of transformers around its own ResNet with the same weights."""
    from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor, pipeline

    blocks = {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"}
    net = ResNetForImageClassification(ResNetConfig(**blocks, embedding_size=64, id2label=dict(enumerate(CLASS_KEYS))))
    net.load_state_dict({rename(name): values for name, values in weights.items()})
    see = ViTImageProcessor(
        size={"height": SIDE, "width": SIDE}, image_mean=list(IMAGENET_MEAN), image_std=list(IMAGENET_STD)
    )
    square = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    theirs = resnet18(num_classes=len(CLASS_KEYS))
    theirs.load_state_dict(weights)
    with torch.inference_mode():
        if not torch.allclose(net.eval()(square).logits, theirs.eval()(square), atol=SAME):
            raise SystemExit("transformers' ResNet with these weights is another network")
    ask = pipeline("image-classification", model=net, image_processor=see, device="cpu")
    return lambda file: ask(str(file), top_k=len(CLASS_KEYS))


def rename(name: str) -> str:
    """torchvision's name of a weight -> transformers'."""
    parts = name.split(".")
    if parts[0] == "fc":
        return f"classifier.1.{parts[1]}"
    if parts[0] in ("conv1", "bn1"):
        return f"resnet.embedder.embedder.{'convolution' if parts[0] == 'conv1' else 'normalization'}.{parts[1]}"
    block = f"resnet.encoder.stages.{int(parts[0][-1]) - 1}.layers.{parts[1]}"
    if parts[2] == "downsample":
        return f"{block}.shortcut.{('convolution', 'normalization')[int(parts[3])]}.{parts[4]}"
    kind = "convolution" if parts[2].startswith("conv") else "normalization"
    return f"{block}.layer.{int(parts[2][-1]) - 1}.{kind}.{parts[3]}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the ratios."""
    rounds = parser(__doc__, 40).parse_args(arguments).rounds
    weights, file, every = shipped_weights(), min(bundled("examples").glob("*.png")), range(len(CLASS_KEYS))
    script, classifier = make_script(weights), load()
    with closing(Decoder(1)) as decoder:
        decoder.wait_until_ready()

        def ours() -> None:
            if classifier(file, decoder.read).verdict != "ok":
                raise SystemExit(f"{file} has no answer")

        print_ratio("ctscan / script with one map", ours, lambda: script(file, None), rounds)
        print_ratio("ctscan / script with four maps", ours, lambda: script(file, every), -(-rounds // 4))
        print_ratio("ctscan / script without maps", ours, lambda: script(file, ()), rounds)
        if find_spec("transformers"):
            ask = make_pipeline(weights)
            print_ratio("ctscan / pipeline of transformers, no map", ours, lambda: ask(file), rounds)


if __name__ == "__main__":
    main()

"""What a training starts from: ImageNet's weights, and the network that has them."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from urllib.error import URLError

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from torchvision.models import ResNet18_Weights

from ctscan.errors import DataError
from ctscan.model.network import SliceNet
from ctscan.training.recipe import Recipe

IMAGENET_URL = ResNet18_Weights.IMAGENET1K_V1.url
IMAGENET_SHA256 = "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec"

Weights = dict[str, Tensor]


def imagenet_weights(init: Path | None) -> Weights:
    """The state dict of an ImageNet ResNet18.

    Args:
        init: A safetensors file, or None for torchvision's own, from torch's cache or a download, of which nothing is
            unpickled unless its SHA-256 is torchvision's.

    Raises:
        DataError: The file is damaged, another one, or cannot be had.
    """
    if init is not None:
        try:
            return {name: values.float() for name, values in safetensors.torch.load_file(init).items()}
        except (OSError, SafetensorError):
            raise DataError(f"--init {init}: not a safetensors file that can be read.") from None
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(IMAGENET_URL).name
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(IMAGENET_URL, str(path), IMAGENET_SHA256)
        genuine = sha256(path.read_bytes()).hexdigest() == IMAGENET_SHA256
    except (URLError, OSError, RuntimeError):  # the last where the download has another hash
        raise DataError("torchvision's ImageNet weights cannot be downloaded; give a file: --init.") from None
    if not genuine:
        raise DataError(f"{path} is not torchvision's file of ImageNet weights: delete it, or give a file: --init.")
    weights: Weights = torch.hub.load_state_dict_from_url(IMAGENET_URL, map_location="cpu", weights_only=True)
    return weights


def build_net(recipe: Recipe, weights: Weights) -> SliceNet:
    """A network with ImageNet's trunk and a new head, seeded.

    Raises:
        DataError: The weights do not fit.
    """
    torch.manual_seed(recipe.seed)
    net = SliceNet(recipe.architecture)
    trunk = {name: values for name, values in weights.items() if not name.startswith("fc.")}
    try:
        net.trunk.load_state_dict(trunk)
    except RuntimeError:
        raise DataError("The starting weights are not a state dict of torchvision's resnet18.") from None
    return net

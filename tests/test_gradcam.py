"""The closed form against the library `grad-cam`, and the identities that make the maps honest."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor

from ctscan.model.card import Architecture
from ctscan.model.gradcam import class_maps, head_gradients
from ctscan.model.network import SliceNet, pool

HEADS = ("linear", "mlp")


def build(head: str, seed: int = 0) -> SliceNet:
    torch.manual_seed(seed)
    net = SliceNet(Architecture(head=head)).eval()  # type: ignore[arg-type]
    with torch.no_grad():  # a fresh head answers near zero; larger weights make differences between maps visible
        for layer in net.head:
            if isinstance(layer, torch.nn.Linear):
                layer.weight.mul_(5)
    return net.requires_grad_(False)


def last_layer(net: SliceNet) -> torch.nn.Linear:
    layer = net.head[-1]
    assert isinstance(layer, torch.nn.Linear)
    return layer


def squares(n: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 1, 14, 14, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=(224, 224), mode="bilinear")


def library_maps(net: SliceNet, x: Tensor, index: int) -> np.ndarray:
    """The library's Grad-CAM of one class at 7 x 7, before it scales each map to 0 to 1."""
    net.requires_grad_(True)
    with GradCAM(model=net, target_layers=[net.trunk.layer4[-1]]) as cam:
        outputs = cam.activations_and_grads(x)
        net.zero_grad()
        sum(ClassifierOutputTarget(index)(row) for row in outputs).backward(retain_graph=True)
        activations = cam.activations_and_grads.activations[0].numpy()
        gradients = cam.activations_and_grads.gradients[0].numpy()
        raw = cam.get_cam_image(x, net.trunk.layer4[-1], [ClassifierOutputTarget(index)], activations, gradients)
    net.requires_grad_(False)
    positive: np.ndarray = np.maximum(raw, 0)
    return positive


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("head", HEADS)
def test_maps_equal_the_library(head: str, batch: int) -> None:
    net, x = build(head), squares(batch)
    _, maps = class_maps(net.head, net.features(x))
    ours = np.maximum(maps.numpy(), 0)
    assert ours.shape == (batch, 4, 7, 7)
    for index in range(4):
        theirs = library_maps(net, x, index)
        assert np.abs(ours[:, index] - theirs).max() <= 1e-5 * max(float(ours.max()), float(theirs.max()))
    assert ours.max() > 0


@pytest.mark.parametrize("head", HEADS)
def test_a_map_without_evidence_is_zero_in_both(head: str) -> None:
    net, x = build(head), squares(1)
    last = last_layer(net)
    with torch.no_grad():  # every feature speaks against class 2: weights towards it are positive, its own negative
        for layer in net.head:
            if isinstance(layer, torch.nn.Linear) and layer is not last:
                layer.weight.abs_()
        last.weight[2] = -last.weight[2].abs()
    features = net.features(x)
    logits, maps = class_maps(net.head, features)
    assert (maps[0, 2] < 0).any()
    assert (maps[0, 2] <= 0).all()
    assert not library_maps(net, x, 2).any()
    assert logits.shape == (1, 4)


def test_gradients_are_those_of_each_sample_alone() -> None:
    net = build("mlp")
    pooled = pool(net.features(squares(3)))
    _, together = head_gradients(net.head, pooled)
    for index in range(3):
        _, alone = head_gradients(net.head, pooled[index : index + 1])
        torch.testing.assert_close(together[index : index + 1], alone)


def test_signed_map_and_bias_sum_to_the_logit() -> None:
    net = build("linear")
    logits, maps = class_maps(net.head, net.features(squares(3)))
    torch.testing.assert_close(maps.sum(dim=(2, 3)) + last_layer(net).bias, logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("head", HEADS)
def test_logits_are_those_of_the_forward_pass(head: str) -> None:
    net, x = build(head), squares(2)
    logits, _ = class_maps(net.head, net.features(x))
    torch.testing.assert_close(logits, net(x))


def test_eight_threads_equal_the_serial_result() -> None:
    net = build("mlp")
    inputs = [squares(1, seed) for seed in range(24)]

    def maps_of(x: Tensor) -> Tensor:
        with torch.inference_mode():
            return class_maps(net.head, net.features(x))[1]

    serial = [maps_of(x) for x in inputs]
    with ThreadPoolExecutor(8) as threads:
        parallel = list(threads.map(maps_of, inputs))
    for one, other in zip(serial, parallel, strict=True):
        assert float((one - other).abs().max()) <= 1e-6 * max(1.0, float(one.abs().max()))


def test_nothing_is_left_on_the_network() -> None:
    net = build("linear").requires_grad_(True)
    class_maps(net.head, net.features(squares(1)))
    assert not net.training
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert not any(m._forward_hooks or m._backward_hooks for m in net.modules())

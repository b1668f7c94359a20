import pytest
import torch
from torch import nn

from retinanet.benchmarks.convolutions import BACKWARD, FORWARD, record, replay
from retinanet.benchmarks.measure import count_host_reads
from retinanet.benchmarks.networks import Scene, our_network, torchvision_network
from retinanet.benchmarks.settings import Settings
from retinanet.benchmarks.train_step import our_step, torchvision_step
from retinanet.structures import HeadOutputs

CPU = torch.device("cpu")
SIZE, CLASSES = (64, 96), 3
SETTINGS = Settings(rounds=1, device=CPU, dtype=torch.float32)


@pytest.fixture(scope="module")
def model():
    return our_network("resnet18", CLASSES, SETTINGS).train()


@pytest.fixture(scope="module")
def scene():
    return Scene(1, *SIZE, CLASSES, device=CPU)


def convolutions_in(model: nn.Module) -> int:
    """Number of convolutions in a forward pass: the subnets run on five levels, all other layers once."""
    in_head = sum(isinstance(module, nn.Conv2d) for module in model.head.modules())
    in_all = sum(isinstance(module, nn.Conv2d) for module in model.modules())
    return in_all + 4 * in_head


def test_every_convolution_of_a_step_is_recorded(model, scene):
    convolutions = record(our_step(model, scene, SETTINGS, compile=False))
    expected = convolutions_in(model)
    assert convolutions.count(FORWARD) == convolutions.count(BACKWARD) == expected
    # Only the images need no gradient. The output mask is the last argument.
    masks = [call.arguments[-1] for call in convolutions.calls if call.operation == BACKWARD]
    assert sum(not mask[0] for mask in masks) == 1
    assert all(mask[1] for mask in masks)


def test_every_convolution_of_inference_is_recorded(model, scene):
    with torch.inference_mode():
        convolutions = record(lambda: model(scene.images, scene.image_sizes))
    assert convolutions.count(FORWARD) == convolutions_in(model)
    assert convolutions.count(BACKWARD) == 0


def test_replay_computes_the_recorded_convolutions(model, scene):
    convolutions = record(our_step(model, scene, SETTINGS, compile=False))
    again = record(replay(convolutions))
    assert again.calls == convolutions.calls  # operation, shapes, strides, types, masks


def test_our_step_has_no_host_reads_and_torchvisions_has_some(model, scene):
    theirs = torchvision_network(model, "resnet18", SIZE, skip_resize=True).train()
    assert count_host_reads(our_step(model, scene, SETTINGS, compile=False)) == 0
    assert count_host_reads(torchvision_step(theirs, scene, SETTINGS, torch.float32)) > 0


def test_both_networks_give_the_same_outputs(model, scene):
    theirs = torchvision_network(model, "resnet18", SIZE, skip_resize=True).train()
    with torch.no_grad():
        pixels = model.normalise(scene.images, scene.image_sizes)
        expected = theirs.head(list(theirs.backbone(pixels).values()))
        outputs: HeadOutputs = model(scene.images, scene.image_sizes)
    torch.testing.assert_close(torch.cat(outputs.class_logits, 1), expected["cls_logits"], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(torch.cat(outputs.box_deltas, 1), expected["bbox_regression"], rtol=1e-3, atol=1e-3)

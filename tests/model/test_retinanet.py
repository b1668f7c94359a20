import typing

import pytest
import torch
import torchvision
from torch import nn
from torch.testing import assert_close

from retinanet.config import AnchorConfig, LossConfig
from retinanet.config.model import Levels
from retinanet.detection.assignment import assign
from retinanet.errors import InputError
from retinanet.losses.build import build_loss
from retinanet.model.fpn import FeaturePyramid
from retinanet.model.retinanet import RetinaNet, build_model, build_model_for_training
from retinanet.structures import HeadOutputs, Targets
from tests.helpers.models import model_config

NUM_CLASSES = 3
HEIGHT, WIDTH = 96, 128
IMAGE_SIZES = torch.tensor([[96, 100], [70, 128]])


def small(**settings):
    """The config of a small network."""
    return model_config(**{"channels": 32} | settings)


def model_of(**settings):
    torch.manual_seed(0)
    return build_model(small(**settings), NUM_CLASSES)


def noise(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (2, 3, HEIGHT, WIDTH), generator=generator, dtype=torch.uint8)


def no_objects(batch=2, num_rows=8):
    nothing = torch.zeros(batch, num_rows, dtype=torch.bool)
    boxes = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(batch, num_rows, 4)
    return Targets(boxes, torch.zeros(batch, num_rows, dtype=torch.int64), nothing, nothing)


def learn(model, targets):
    """Run the forward and backward pass of one step; return its losses."""
    outputs = model(noise(), IMAGE_SIZES)
    assignment = assign(outputs.anchors, targets)
    num_positive = assignment.positive.sum().clamp(min=1)
    losses = build_loss(LossConfig())(outputs, assignment, targets, num_positive)
    losses.total.backward()
    return losses


def test_normalise_equals_values_computed_by_hand():
    model = model_of(mean=(10.0, 20.0, 30.0), std=(1.0, 2.0, 4.0))
    images = torch.full((1, 3, 2, 2), 50, dtype=torch.uint8)
    expected = torch.tensor([40.0, 15.0, 5.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    assert_close(model.normalise(images, torch.tensor([[2, 2]])), expected)


def test_padding_is_zero_after_normalise():
    model, images = model_of(), noise()  # the noise covers the padding as well
    pixels = model.normalise(images, IMAGE_SIZES)
    assert pixels.dtype == torch.float32 and pixels.is_contiguous()
    model.to(memory_format=torch.channels_last)  # images get the memory format of the weights
    last = model.normalise(images, IMAGE_SIZES)
    assert last.is_contiguous(memory_format=torch.channels_last) and torch.equal(last, pixels)
    interleaved = images.contiguous(memory_format=torch.channels_last)  # as the loader makes them
    assert torch.equal(model.normalise(interleaved, IMAGE_SIZES), pixels)
    plain = (images - torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)) / torch.tensor(
        [58.395, 57.12, 57.375]
    ).view(3, 1, 1)
    for image, (height, width) in enumerate(IMAGE_SIZES.tolist()):
        assert_close(pixels[image, :, :height, :width], plain[image, :, :height, :width])
        assert (pixels[image, :, height:] == 0).all() and (pixels[image, :, :, width:] == 0).all()


def test_pixels_in_the_padding_do_not_change_the_outputs():
    model = model_of().eval()
    images = noise()
    blank = images.clone()
    for image, (height, width) in zip(blank, IMAGE_SIZES.tolist(), strict=True):
        image[:, height:] = 0
        image[:, :, width:] = 0
    assert not torch.equal(images, blank)
    with torch.no_grad():
        assert_close(model(images, IMAGE_SIZES), model(blank, IMAGE_SIZES), rtol=0, atol=0)


@pytest.mark.parametrize("size", [(96, 128), (70, 93)])
def test_outputs_have_one_row_per_anchor(size):
    model = model_of(anchors=AnchorConfig(scales=(1.0,), aspect_ratios=(0.5, 1.0)))
    images = torch.zeros(2, 3, *size, dtype=torch.uint8)
    with torch.no_grad():
        outputs = model.eval()(images, torch.tensor([size, size]))
    assert len(outputs.anchors) == 5
    for logits, deltas, anchors in zip(outputs.class_logits, outputs.box_deltas, outputs.anchors, strict=True):
        count = anchors.numel() // 4
        assert logits.shape == (2, count, NUM_CLASSES)
        assert deltas.shape == (2, count, 4)


@pytest.mark.parametrize("norm", ["frozen", "batch", "group"])
def test_outputs_have_the_same_shapes_and_dtypes_in_training_and_evaluation_mode(norm):
    model = model_of(norm=norm)
    with torch.no_grad():
        training, evaluation = (model.train(mode)(noise(), IMAGE_SIZES) for mode in (True, False))
    assert type(training) is type(evaluation) is HeadOutputs
    assert training.quality == evaluation.quality == ()  # only some users' heads have it
    for field in ("class_logits", "box_deltas", "anchors"):
        one, other = getattr(training, field), getattr(evaluation, field)
        assert type(one) is type(other) is list
        assert [(x.shape, x.dtype) for x in one] == [(x.shape, x.dtype) for x in other]
    if norm != "batch":  # only batch norm depends on the mode
        assert_close(training, evaluation, rtol=0, atol=0)


@pytest.mark.parametrize("prior", [0.01, 0.1])
def test_initial_scores_are_near_the_prior(prior):
    with torch.no_grad():
        outputs = model_of(norm="batch", prior=prior).train()(noise(), IMAGE_SIZES)
    scores = torch.cat(outputs.class_logits, 1).sigmoid()
    assert_close(scores.mean().item(), prior, rtol=0.05, atol=0)
    assert scores.max() < 2 * prior


@pytest.mark.parametrize(
    "settings",
    [
        {"norm": "frozen"},
        {"norm": "batch"},
        {"norm": "group", "head_norm": "group", "channels": 64, "p6_from": "p5"},
    ],
)
def test_images_without_objects_give_gradients_to_all_weights_except_the_box_subnet(settings):
    model = model_of(**settings).train()
    losses = learn(model, no_objects())
    assert losses.box_regression == 0 and losses.classification > 0
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert [name for name, parameter in trainable.items() if parameter.grad is None] == []
    assert all(parameter.grad.isfinite().all() for parameter in trainable.values())
    nonzero = {name for name, parameter in trainable.items() if (parameter.grad != 0).any()}
    assert nonzero == {name for name in trainable if not name.startswith("head.box_subnet")}


def test_images_with_objects_give_gradients_to_all_weights():
    targets = no_objects()
    boxes = targets.boxes.clone()
    boxes[0, 0], boxes[1, 0] = torch.tensor([10.0, 10.0, 70.0, 60.0]), torch.tensor([5.0, 5.0, 90.0, 60.0])
    is_object = torch.arange(8).expand(2, 8) == 0
    model = model_of(norm="batch").train()
    losses = learn(model, targets._replace(boxes=boxes, is_object=is_object))
    assert losses.box_regression > 0
    assert [name for name, parameter in model.named_parameters() if not (parameter.grad != 0).any()] == []


def test_step_does_not_wait_for_the_device(host_reads):
    model = model_of(norm="batch").train()
    learn(model, no_objects())  # the first call generates the anchors
    with host_reads() as reads:
        learn(model, no_objects())
    assert reads == []


def test_state_dict_contains_only_weights():
    """Mean, standard deviation and anchors come from the config, so weights can be loaded with different ones."""
    model = model_of()
    parts = {name.partition(".")[0] for name in model.state_dict()}
    assert parts == {"backbone", "fpn", "head"}
    other = build_model(small(mean=(0.0, 0.0, 0.0), anchors=AnchorConfig(offset=0.5)), NUM_CLASSES)
    other.load_state_dict(model.state_dict())
    assert_close(other.mean, torch.zeros(1, 3, 1, 1))


def test_build_model_passes_the_config_to_every_component():
    model = model_of(
        norm="batch",
        frozen_stages=0,
        p6_from="p5",
        head_convs=1,
        head_norm="group",
        channels=64,
        anchors=AnchorConfig(sizes=(16, 32, 64, 128, 256), scales=(1.0,), offset=0.5, rounding="torchvision"),
    )
    assert model.fpn.p6.in_channels == model.fpn.p6.out_channels == 64
    assert len(model.head.class_subnet) == 4
    assert model.head.class_subnet[-1].out_channels == 3 * NUM_CLASSES
    assert_close(model.anchors(64, 64)[0].view(-1, 4)[1], torch.tensor([-4.0, -4.0, 12.0, 12.0]))
    frozen = build_model(small(name="resnet18", weights="imagenet", frozen_stages=2), NUM_CLASSES)
    constant = {name.split(".")[1] for name, parameter in frozen.named_parameters() if not parameter.requires_grad}
    assert constant == {"conv1", "layer1"}


def test_pretrained_weights_are_loaded_only_for_training(tmp_path):
    torch.manual_seed(5)
    state = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(state, tmp_path / "resnet18.pth")
    cfg = small(name="resnet18", weights=str(tmp_path / "resnet18.pth"))
    loaded, plain = build_model_for_training(cfg, NUM_CLASSES), build_model(cfg, NUM_CLASSES)
    assert torch.equal(loaded.backbone.conv1.weight, state["conv1.weight"])
    assert not torch.equal(plain.backbone.conv1.weight, state["conv1.weight"])
    build_model_for_training(small(weights="none"), NUM_CLASSES)  # needs no file


@pytest.mark.parametrize("images", [torch.rand(1, 3, 64, 64), torch.zeros(3, 64, 64, dtype=torch.uint8)])
def test_images_of_the_wrong_dtype_or_shape_are_rejected(images):
    with pytest.raises(InputError, match=r"expected torch\.uint8 \(B, 3, H, W\)"):
        model_of()(images, torch.tensor([[64, 64]]))


class TinyBackbone(nn.Module):
    """A backbone with only the members of the protocol."""

    out_channels = (4, 6, 8)
    strides = (8, 16, 32)
    memory_format = torch.contiguous_format

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList(nn.Conv2d(3, channels, 1) for channels in self.out_channels)

    def forward(self, images):
        return [part(images[..., ::stride, ::stride]) for part, stride in zip(self.parts, self.strides, strict=True)]

    def load_pretrained(self, weights):
        raise AssertionError("build_model must not load weights")


def test_network_needs_only_the_members_of_the_backbone_protocol():
    template = model_of()
    backbone = TinyBackbone()
    fpn = FeaturePyramid(backbone.out_channels, 32)
    model = RetinaNet(backbone, fpn, template.head, template.anchors, mean=(0.0,) * 3, std=(1.0,) * 3)
    outputs = model(noise(), IMAGE_SIZES)
    assert [level.shape for level in outputs.class_logits] == [
        level.shape for level in template(noise(), IMAGE_SIZES).class_logits
    ]


def test_backbone_whose_strides_differ_from_the_anchors_is_rejected():
    template, backbone = model_of(), TinyBackbone()
    backbone.strides = (4, 8, 16)
    with pytest.raises(AssertionError, match=r"backbone strides \(4, 8, 16\), anchor strides \(8, 16, 32\)"):
        RetinaNet(backbone, template.fpn, template.head, template.anchors, mean=(0.0,) * 3, std=(1.0,) * 3)


@pytest.mark.parametrize("levels", typing.get_args(Levels))
def test_outputs_of_any_levels_match_their_anchors(levels):
    """Images of 96 x 128 have 24 x 32 positions on P2, 12 x 16 on P3, ..., 1 x 1 on P7, with 9 anchors each."""
    outputs = model_of(levels=levels, head_norm="batch_per_level")(noise(), IMAGE_SIZES)
    grids = [(24, 32), (12, 16), (6, 8), (3, 4), (2, 2), (1, 1)][int(levels[1]) - 2 : int(levels[-1]) - 1]
    assert [level.shape[:3] for level in outputs.anchors] == [(*grid, 9) for grid in grids]
    counts = [9 * height * width for height, width in grids]
    assert [level.shape[1] for level in outputs.class_logits] == counts
    assert [level.shape[1] for level in outputs.box_deltas] == counts


def test_small_object_has_a_positive_anchor_on_p2():
    """A box of 16 x 16 centred on a position of P2 equals its square anchor of scale 1."""
    box = torch.tensor([[[20.0, 28.0, 36.0, 44.0]]])  # centre (28, 36) = 4 * (7, 9)
    yes, no = torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 1, dtype=torch.bool)
    outputs = model_of(levels="p2..p7")(noise()[:1], IMAGE_SIZES[:1])
    assignment = assign(outputs.anchors, Targets(box, torch.zeros(1, 1, dtype=torch.int64), yes, no))
    assert outputs.anchors[0][9, 7, 3].tolist() == box[0, 0].tolist()
    assert assignment.positive[0, (9 * 32 + 7) * 9 + 3]

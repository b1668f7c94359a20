"""A bad step, written and taken again: faults are planted where the report has to find them."""

import math

import pytest
import torch
from torch.testing import assert_close

from retinanet.config import Config, LossConfig, TrainConfig
from retinanet.data.collate import pad_targets
from retinanet.detection.assignment import assign
from retinanet.engine.nonfinite.replay import read_replay, replay, write_replay
from retinanet.errors import InputError
from retinanet.losses.detection import build_loss
from retinanet.model.retinanet import build_model
from retinanet.structures import Batch
from tests.helpers.models import model_config

CPU = torch.device("cpu")
CLASSES = ["cat", "dog", "bird"]
BOX = (5.0, 5.0, 40.0, 50.0)
BLACK, WHITE = 0, 255


def batch_of(*pictures, indices=(0, 1)):
    """Images of one grey value each, or of noise for None, with one box each; or with boxes of their own."""
    generator = torch.Generator().manual_seed(0)
    images, truths = [], []
    for picture in pictures:
        grey, boxes = picture if isinstance(picture, tuple) else (picture, [BOX])
        noise = torch.randint(256, (3, 64, 96), generator=generator, dtype=torch.uint8)
        images.append(noise if grey is None else torch.full_like(noise, grey))
        truths.append(
            (torch.tensor(boxes).view(-1, 4), torch.arange(len(boxes)) % 3, torch.zeros(len(boxes), dtype=torch.bool))
        )
    sizes = torch.tensor([[64, 96]] * len(images))
    return Batch(torch.stack(images), sizes, sizes, pad_targets(truths), indices)


def config(**loss):
    model = model_config(channels=64, head_convs=1)
    return Config(model=model, loss=LossConfig(**loss), train=TrainConfig(steps=1))


def model_of(cfg):
    torch.manual_seed(0)
    return build_model(cfg.model, len(CLASSES)).train()


def report_of(folder, batches, *, cfg=None, change=None, ids=None, **settings):
    """Write a step of a model, with `change` made to it, and take it again."""
    cfg = cfg or config()
    model = model_of(cfg)
    if change is not None:
        with torch.no_grad():
            change(model)
    ids = ids or [f"image {number}" for number in range(sum(len(batch.images) for batch in batches))]
    path = folder / "bad_step.pt"
    settings = {"step": 12, "dtype": torch.float32, **settings}
    write_replay(
        path, cfg=cfg, class_names=CLASSES, model_state=model.state_dict(), batches=batches, image_ids=ids, **settings
    )
    return replay(path, CPU)


def bright_is_too_much(model):
    """The first convolution overflows on a white image; on a black one it is negative, which the ReLU cuts to 0."""
    model.backbone.conv1.weight.fill_(1e37)


def test_a_sound_step_is_what_training_computes(tmp_path):
    cfg, batches = config(class_weight=1.5), [batch_of(None, None), batch_of(None, (None, []))]
    report = report_of(tmp_path, batches, cfg=cfg)

    model, criterion = model_of(cfg), build_loss(cfg.loss)
    predictions = [model(batch.images, batch.image_sizes) for batch in batches]
    assignments = [assign(p.anchors, batch.targets) for p, batch in zip(predictions, batches, strict=True)]
    num_positive = sum(assignment.positive.sum().float() for assignment in assignments)
    losses = [
        criterion(p, assignment, batch.targets, num_positive)
        for p, assignment, batch in zip(predictions, assignments, batches, strict=True)
    ]
    sum(loss.total for loss in losses).backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]).item()

    assert report.num_positive == num_positive
    assert len(report.class_per_level) == len(report.box_per_level) == 5
    assert sum(report.class_per_level) == pytest.approx(sum(loss.classification.item() for loss in losses), rel=1e-5)
    assert sum(report.box_per_level) == pytest.approx(sum(loss.box_regression.item() for loss in losses), rel=1e-5)
    assert report.grad_norm == pytest.approx(norm, rel=1e-4)
    # Norms are frozen, so images do not meet: the losses of each alone add up to that of all.
    assert sum(image.classification for image in report.images) == pytest.approx(sum(report.class_per_level), rel=1e-4)
    assert sum(image.box_regression for image in report.images) == pytest.approx(sum(report.box_per_level), rel=1e-4)
    assert report.is_finite and all(image.is_finite for image in report.images)
    assert report.first_in_forward is report.first_in_backward is None
    assert report.bad_gradients == report.bad_weights == []
    assert report.num_gradients == len(list(model.parameters()))
    text = report.describe()
    assert "step 12 again, on cpu in float32, 4 images" in text and "everything is finite here" in text
    assert "Not seen again" in text


def test_the_image_that_overflows_is_named_and_the_place(tmp_path):
    batches = [batch_of(BLACK, BLACK), batch_of(WHITE, BLACK)]
    report = report_of(tmp_path, batches, change=bright_is_too_much, ids=[11, 12, 13, 14])
    assert not report.is_finite and math.isnan(report.grad_norm)
    assert [image.image_id for image in report.images if not image.is_finite] == [13]
    assert report.first_in_forward.startswith("backbone.conv1 (aten::convolution, result (2, 64, 32, 48)")
    assert not report.bad_weights
    assert "backbone.layer4.1.conv2.weight" in report.bad_gradients
    text = report.describe()
    assert "id 13: nan" in text and text.count("<-- not finite") == 1
    assert text.splitlines()[-1].startswith("It comes from 13:")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_that_overflows_is_found_on_the_finest_level_first(dtype, tmp_path):
    """In bfloat16 the weights are cast once for all levels, which must not hide whose they are."""

    def change(model):
        model.head.class_subnet[2].weight.fill_(3e38)

    report = report_of(tmp_path, [batch_of(None, None)], change=change, dtype=dtype)
    assert report.first_in_forward == "head.class_subnet.2 (aten::convolution, result (2, 27, 8, 12))"
    assert not any(math.isfinite(value) for value in report.class_per_level)
    assert all(math.isfinite(value) for value in report.box_per_level)
    assert all(not image.is_finite for image in report.images)
    assert "It comes from no image alone" in report.describe()


def test_the_level_that_is_not_finite_is_told(tmp_path):
    """P7 alone goes through its own convolution."""

    def change(model):
        model.fpn.p7.bias.fill_(float("inf"))

    report = report_of(tmp_path, [batch_of(None, None)], change=change)
    finite = [math.isfinite(value) for value in report.class_per_level]
    assert finite == [True, True, True, True, False]
    assert report.bad_weights == ["fpn.p7.bias"]
    assert report.first_in_forward.startswith("fpn.p7 (")
    assert "weights that were not finite before the step: fpn.p7.bias" in report.describe()
    assert "the fault is in an earlier step" in report.describe()


def test_a_gradient_that_overflows_on_the_way_back_is_told(tmp_path):
    """Forward and losses are finite; float16 at this scale is not."""
    report = report_of(tmp_path, [batch_of(None, None)], dtype=torch.float16, loss_scale=2.0**60)
    assert all(map(math.isfinite, [*report.class_per_level, *report.box_per_level]))
    assert report.first_in_forward is None
    assert report.first_in_backward.startswith("before any weight (aten::mul")  # 2**60 / 58 times a focal slope
    assert report.bad_gradients and not math.isfinite(report.grad_norm)
    assert "loss scaled by 1.15292e+18" in report.describe() and "float16 overflowed" in report.describe()


def test_scaling_the_loss_leaves_the_gradient(tmp_path):
    plain, scaled = (report_of(tmp_path, [batch_of(None, None)], loss_scale=scale) for scale in (1.0, 1024.0))
    assert scaled.grad_norm == pytest.approx(plain.grad_norm, rel=1e-5)


def test_pixels_and_boxes_are_described(tmp_path):
    boxes = [BOX, (10.0, 10.0, 10.0, 30.0), (0.0, 0.0, 1e6, 5.0), (float("nan"), 0.0, 5.0, 5.0)]
    report = report_of(tmp_path, [batch_of((100, boxes), (None, []))], change=bright_is_too_much)
    first, second = report.images
    assert (first.size, first.pixels, first.num_boxes) == ((64, 96), (100, 100, 100.0), 4)
    assert [line.partition(") ")[2] for line in first.odd_boxes] == [
        "has no area",
        "is outside the image",
        "is not finite",
    ]
    assert first.odd_boxes[0] == "box (10, 10, 10, 30) has no area"
    assert second.sides is None and second.odd_boxes == [] and second.pixels[:2] == (0, 255)
    sound = report_of(tmp_path, [batch_of((None, [BOX, (1.0, 2.0, 4.0, 90.5)]), None)])
    assert sound.images[0].sides == (3.0, 88.5)
    assert sound.images[0].odd_boxes == ["box (1, 2, 4, 90.5) is outside the image"]  # which is 64 pixels high


def test_crowd_regions_are_kept(tmp_path):
    batch = batch_of(None, None)
    nowhere = torch.zeros_like(batch.targets.is_object)
    targets = batch.targets._replace(is_object=nowhere, is_crowd=batch.targets.is_object, has_crowd=True)
    with_crowd = report_of(tmp_path, [batch._replace(targets=targets)])
    nothing = targets._replace(is_crowd=nowhere, has_crowd=False)
    without = report_of(tmp_path, [batch._replace(targets=nothing)])
    assert [image.num_boxes for image in with_crowd.images] == [1, 1]
    assert sum(with_crowd.class_per_level) < sum(without.class_per_level)  # what lies in it is not background


def test_sync_norm_is_taken_as_batch_and_said(tmp_path):
    cfg = config()
    cfg = cfg.model_copy(update={"model": model_config(channels=64, head_convs=1, norm="sync")})
    report = report_of(tmp_path, [batch_of(None, None)], cfg=cfg)
    assert report.is_finite and "norm sync is taken as batch" in report.describe()


def test_a_file_holds_its_images_and_no_more(tmp_path):
    """Slices of a large batch, as micro-batches are, do not bring the rest with them."""
    whole = batch_of(*[None] * 40, indices=tuple(range(40)))
    rows = slice(0, 2)
    images, sizes, originals, *targets = (tensor[rows] for tensor in whole.tensors())
    part = Batch(images, sizes, originals, whole.targets._make((*targets, False)), whole.image_indices[rows])
    sizes = []
    for batch in (part, batch_of(None, None)):
        report_of(tmp_path, [batch])
        sizes.append((tmp_path / "bad_step.pt").stat().st_size)
    assert abs(sizes[0] - sizes[1]) < 4096
    content = read_replay(tmp_path / "bad_step.pt")
    assert content["image_ids"] == ["image 0", "image 1"] and content["dtype"] == torch.float32
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("fault", ["missing", "empty", "truncated", "other", "code"])
def test_what_is_no_bad_step_is_refused_by_name(fault, tmp_path):
    path = tmp_path / "x.pt"
    if fault == "empty":
        path.write_bytes(b"")
    elif fault == "truncated":
        report_of(tmp_path, [batch_of(None, None)])
        data = (tmp_path / "bad_step.pt").read_bytes()
        path.write_bytes(data[: len(data) // 2])
    elif fault == "other":
        torch.save({"format": "retinanet checkpoint 2"}, path)
    elif fault == "code":
        torch.save({"format": "retinanet replay 1", "code": print}, path)
    with pytest.raises(InputError, match=r"x\.pt"):
        replay(path, CPU)


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    cfg = config()
    with pytest.raises(InputError, match=r"nowhere.*cannot be written: .*No such file"):
        write_replay(
            tmp_path / "nowhere" / "bad_step.pt",
            cfg=cfg,
            class_names=CLASSES,
            model_state=model_of(cfg).state_dict(),
            batches=[batch_of(None, None)],
            image_ids=[1, 2],
            step=1,
            dtype=torch.float32,
        )


def test_bits_survive_the_file(tmp_path):
    batch = batch_of(None, WHITE)
    report_of(tmp_path, [batch])
    content = read_replay(tmp_path / "bad_step.pt")
    for one, other in zip(content["batches"][0]["tensors"], batch.tensors(), strict=True):
        assert_close(one, other, rtol=0, atol=0)
    for name, value in model_of(config()).state_dict().items():
        assert torch.equal(content["model"][name], value)

"""Saved and replayed steps with planted faults that the report must identify."""

import math

import pytest
import torch

from retinanet.config import Config, LossConfig, TrainConfig
from retinanet.data.collate import pad_targets
from retinanet.detection.assignment import assign
from retinanet.engine.nonfinite.replay import replay
from retinanet.engine.nonfinite.saved_step import SavedStep, read_saved_step, write_saved_step
from retinanet.errors import InputError
from retinanet.losses.build import build_loss
from retinanet.model.retinanet import build_model
from retinanet.structures import Batch
from tests.helpers.batches import assert_same_batches
from tests.helpers.models import model_config

CPU = torch.device("cpu")
CLASSES = ["cat", "dog", "bird"]
BOX = (5.0, 5.0, 40.0, 50.0)
BLACK, WHITE = 0, 255


def batch_of(*contents, indices=(0, 1)):
    """Images of one grey value each, or noise for None, with one box or the given boxes."""
    generator = torch.Generator().manual_seed(0)
    images, truths = [], []
    for content in contents:
        grey, boxes = content if isinstance(content, tuple) else (content, [BOX])
        noise = torch.randint(256, (3, 64, 96), generator=generator, dtype=torch.uint8)
        images.append(noise if grey is None else torch.full_like(noise, grey))
        truths.append(
            (torch.tensor(boxes).view(-1, 4), torch.arange(len(boxes)) % 3, torch.zeros(len(boxes), dtype=torch.bool))
        )
    sizes = torch.tensor([[64, 96]] * len(images))
    return Batch(torch.stack(images), sizes, sizes, pad_targets(truths), indices)


def incomplete(batch):
    """The batch, with only some classes annotated."""
    return batch._replace(targets=batch.targets._replace(is_complete=torch.tensor([[True, False, True], [False] * 3])))


def config(**loss):
    model = model_config(channels=64, head_convs=1)
    return Config(model=model, loss=LossConfig(**loss), train=TrainConfig(steps=1))


def model_of(cfg):
    torch.manual_seed(0)
    return build_model(cfg.model, len(CLASSES)).train()


def report_of(folder, batches, *, cfg=None, change=None, ids=None, **settings):
    """Apply `change` to a model, save a step, and replay it."""
    cfg = cfg or config()
    model = model_of(cfg)
    if change is not None:
        with torch.no_grad():
            change(model)
    ids = ids or [f"image {number}" for number in range(sum(len(batch.images) for batch in batches))]
    path = folder / "bad_step.pt"
    settings = {"step": 12, "dtype": torch.float32, **settings}
    saved = SavedStep(
        cfg=cfg, class_names=CLASSES, model_state=model.state_dict(), batches=batches, image_ids=ids, **settings
    )
    write_saved_step(path, saved)
    return replay(path, CPU)


def overflow_on_white(model):
    """Make the first convolution overflow on white images; on black ones it is negative, and the ReLU gives 0."""
    model.backbone.conv1.weight.fill_(1e37)


def test_replay_of_a_finite_step_equals_training(tmp_path):
    cfg, batches = config(class_weight=1.5), [batch_of(None, None), incomplete(batch_of(None, (None, [])))]
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
    # With frozen norms, images are independent, so their separate losses add up to the total loss.
    assert sum(image.classification for image in report.images) == pytest.approx(sum(report.class_per_level), rel=1e-4)
    assert sum(image.box_regression for image in report.images) == pytest.approx(sum(report.box_per_level), rel=1e-4)
    assert report.is_finite and all(image.is_finite for image in report.images)
    assert report.first_in_forward is report.first_in_backward is None
    assert report.bad_gradients == report.bad_weights == []
    assert report.num_gradients == len(list(model.parameters()))
    text = report.describe()
    assert "step 12 replayed on cpu in float32, 4 images" in text and "all values are finite" in text
    assert "Not reproduced" in text


def test_report_names_the_overflowing_image_and_operation(tmp_path):
    batches = [batch_of(BLACK, BLACK), batch_of(WHITE, BLACK)]
    report = report_of(tmp_path, batches, change=overflow_on_white, ids=[11, 12, 13, 14])
    assert not report.is_finite and math.isnan(report.grad_norm)
    assert [image.image_id for image in report.images if not image.is_finite] == [13]
    assert report.first_in_forward.startswith("backbone.conv1 (aten::convolution, result (2, 32, 32, 48)")
    assert not report.bad_weights
    assert "backbone.layer4.0.conv2.weight" in report.bad_gradients
    text = report.describe()
    assert "id 13: nan" in text and text.count("<-- not finite") == 1
    assert text.splitlines()[-1].startswith("Caused by 13:")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_overflowing_layer_is_reported_on_the_finest_level(dtype, tmp_path):
    """In bfloat16 the weights are cast once for all levels, and must still be attributed to their layer."""

    def change(model):
        model.head.class_subnet[2].weight.fill_(3e38)

    report = report_of(tmp_path, [batch_of(None, None)], change=change, dtype=dtype)
    assert report.first_in_forward == "head.class_subnet.2 (aten::convolution, result (2, 27, 8, 12))"
    assert not any(math.isfinite(value) for value in report.class_per_level)
    assert all(math.isfinite(value) for value in report.box_per_level)
    assert all(not image.is_finite for image in report.images)
    assert "Not caused by a single image" in report.describe()


def test_report_shows_which_level_is_not_finite(tmp_path):
    """Only P7 depends on its own convolution."""

    def change(model):
        model.fpn.p7.bias.fill_(float("inf"))

    report = report_of(tmp_path, [batch_of(None, None)], change=change)
    finite = [math.isfinite(value) for value in report.class_per_level]
    assert finite == [True, True, True, True, False]
    assert report.bad_weights == ["fpn.p7.bias"]
    assert report.first_in_forward.startswith("fpn.p7 (")
    assert "non-finite weights before the step: fpn.p7.bias" in report.describe()
    assert "because of an earlier step" in report.describe()


@pytest.mark.slow
def test_report_shows_overflow_in_the_backward_pass(tmp_path):
    """The losses are finite; their gradient in float16 at this scale is not."""
    report = report_of(tmp_path, [batch_of(None, None)], dtype=torch.float16, loss_scale=2.0**60)
    assert all(map(math.isfinite, [*report.class_per_level, *report.box_per_level]))
    assert report.first_in_forward is None
    # The derivative of the focal loss, times 2**60 / 58.
    assert report.first_in_backward.startswith("before any weight (aten::mul")
    assert report.bad_gradients and not math.isfinite(report.grad_norm)
    assert "loss scaled by 1.15292e+18" in report.describe() and "float16 overflowed" in report.describe()


def test_loss_scale_does_not_change_the_gradient_norm(tmp_path):
    plain, scaled = (report_of(tmp_path, [batch_of(None, None)], loss_scale=scale) for scale in (1.0, 1024.0))
    assert scaled.grad_norm == pytest.approx(plain.grad_norm, rel=1e-5)


def test_report_describes_pixels_and_invalid_boxes(tmp_path):
    boxes = [BOX, (10.0, 10.0, 10.0, 30.0), (0.0, 0.0, 1e6, 5.0), (float("nan"), 0.0, 5.0, 5.0)]
    report = report_of(tmp_path, [batch_of((100, boxes), (None, []))], change=overflow_on_white)
    first, second = report.images
    assert (first.size, first.pixels, first.num_boxes) == ((64, 96), (100, 100, 100.0), 4)
    assert [line.partition(") ")[2] for line in first.invalid_boxes] == [
        "has no area",
        "is outside the image",
        "is not finite",
    ]
    assert first.invalid_boxes[0] == "box (10, 10, 10, 30) has no area"
    assert second.sides is None and second.invalid_boxes == [] and second.pixels[:2] == (0, 255)
    sound = report_of(tmp_path, [batch_of((None, [BOX, (1.0, 2.0, 4.0, 90.5)]), None)])
    assert sound.images[0].sides == (3.0, 88.5)
    assert sound.images[0].invalid_boxes == ["box (1, 2, 4, 90.5) is outside the image"]  # the image is 64 pixels high


def test_saved_step_keeps_crowd_regions(tmp_path):
    batch = batch_of(None, None)
    nowhere = torch.zeros_like(batch.targets.is_object)
    targets = batch.targets._replace(is_object=nowhere, is_crowd=batch.targets.is_object, has_crowd=True)
    with_crowd = report_of(tmp_path, [batch._replace(targets=targets)])
    nothing = targets._replace(is_crowd=nowhere, has_crowd=False)
    without = report_of(tmp_path, [batch._replace(targets=nothing)])
    assert [image.num_boxes for image in with_crowd.images] == [1, 1]
    assert sum(with_crowd.class_per_level) < sum(without.class_per_level)  # anchors in the region are not negatives


def test_sync_norm_is_replayed_as_batch_norm_with_a_note(tmp_path):
    cfg = config()
    cfg = cfg.model_copy(update={"model": model_config(channels=64, head_convs=1, norm="sync")})
    report = report_of(tmp_path, [batch_of(None, None)], cfg=cfg)
    assert report.is_finite and "norm sync is replaced by batch" in report.describe()


def test_synchronised_norms_of_the_head_are_replayed_as_batch_norms_with_a_note(tmp_path):
    cfg = config()
    cfg = cfg.model_copy(update={"model": model_config(channels=64, head_convs=1, head_norm="sync_per_level")})
    report = report_of(tmp_path, [batch_of(None, None)], cfg=cfg)
    assert report.is_finite and "head_norm sync_per_level is replaced by batch_per_level" in report.describe()


@pytest.mark.parametrize(("step", "is_frozen"), [(12, True), (13, False)])
def test_backbone_is_frozen_in_the_replay_of_a_frozen_step(tmp_path, step, is_frozen):
    cfg = config().model_copy(update={"train": TrainConfig(steps=20, freeze_backbone_steps=12)})
    report = report_of(tmp_path, [batch_of(None, None)], cfg=cfg, step=step)
    model = model_of(cfg)
    parts = [model.fpn, model.head] if is_frozen else [model]
    assert report.num_gradients == sum(len(list(part.parameters())) for part in parts)


def test_file_of_a_slice_is_no_larger_than_that_of_a_batch(tmp_path):
    """Micro-batches are slices of a larger batch; the file must not contain the whole storage."""
    whole = batch_of(*[None] * 40, indices=tuple(range(40)))
    rows = slice(0, 2)
    targets = whole.targets.map(lambda tensor: tensor[rows])
    part = Batch(
        whole.images[rows], whole.image_sizes[rows], whole.original_sizes[rows], targets, whole.image_indices[rows]
    )
    sizes = []
    for batch in (part, batch_of(None, None)):
        report_of(tmp_path, [batch])
        sizes.append((tmp_path / "bad_step.pt").stat().st_size)
    assert abs(sizes[0] - sizes[1]) < 4096
    saved = read_saved_step(tmp_path / "bad_step.pt")
    assert saved.image_ids == ["image 0", "image 1"] and saved.dtype == torch.float32
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("fault", ["missing", "empty", "truncated", "other", "code"])
def test_invalid_file_is_refused_by_name(fault, tmp_path):
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
        torch.save({"format": "retinanet replay 3", "code": print}, path)
    with pytest.raises(InputError, match=r"x\.pt"):
        replay(path, CPU)


def test_unwritable_path_is_an_input_error(tmp_path):
    cfg = config()
    saved = SavedStep(
        cfg=cfg,
        class_names=CLASSES,
        model_state=model_of(cfg).state_dict(),
        batches=[batch_of(None, None)],
        image_ids=[1, 2],
        step=1,
        dtype=torch.float32,
    )
    with pytest.raises(InputError, match=r"nowhere.*cannot be written: .*No such file"):
        write_saved_step(tmp_path / "nowhere" / "bad_step.pt", saved)


def test_batches_and_weights_are_saved_bit_for_bit(tmp_path):
    batches = [incomplete(batch_of(None, WHITE))]
    report_of(tmp_path, batches)
    saved = read_saved_step(tmp_path / "bad_step.pt")
    assert_same_batches(saved.batches, batches)
    for name, value in model_of(config()).state_dict().items():
        assert torch.equal(saved.model_state[name], value)

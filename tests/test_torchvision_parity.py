"""Compare the whole pipeline, from pixels to detections, with a torchvision RetinaNet that has the same weights."""

import pytest
import torch
from torch.testing import assert_close
from torchvision.ops import box_iou
from torchvision.transforms.v2 import functional as F

from retinanet.checkpoint.file import Checkpoint
from retinanet.config import Config, DataConfig, InferenceConfig, PostprocessConfig, ResizeConfig, TrainConfig
from retinanet.data.padded_shapes import resized
from retinanet.detection.postprocess import Postprocess, build_postprocess
from retinanet.inference.predictor import Predictor
from retinanet.interop.torchvision import COCO_IDS, COCO_NAMES, export_torchvision, import_torchvision
from retinanet.model.retinanet import build_model
from retinanet.structures import Detections, HeadOutputs
from tests.helpers.torchvision_networks import (
    MAX_DETECTIONS,
    NUM_SLOTS,
    TOP_K,
    batched,
    build_theirs,
    clear_threshold,
    num_unmatched,
    original_images,
    outputs_of,
    sample_images,
    spread_out,
    with_area,
)


def of_coco(detections: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """torchvision's detections without those in slots that belong to no class."""
    keep = torch.isin(detections["labels"], torch.tensor(COCO_IDS))
    return {name: values[keep] for name, values in detections.items()}


def by_id(detections: Detections) -> Detections:
    """Our detections with torchvision's labels."""
    return Detections(detections.boxes, detections.scores, torch.tensor(COCO_IDS)[detections.labels])


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_detections_equal_torchvisions(version, record_property):
    """A file of torchvision's is imported, with the 80 classes of its 91 slots."""
    images = sample_images()
    assert len({image.shape for image in images}) > 1
    as_floats = [image / 255 for image in images]
    torch.manual_seed(0)
    theirs = build_theirs(version)
    spread_out(theirs, as_floats)
    imported = import_torchvision(theirs.state_dict(), source="torchvision")
    assert imported.class_names == COCO_NAMES and imported.category_ids == COCO_IDS
    ours = build_model(imported.model, len(imported.class_names)).eval()
    ours.load_state_dict(imported.state)

    batch, sizes = batched(images)
    assert any(side % 64 for side in batch.shape[-2:])  # torchvision's anchor spacing then differs from the stride
    with torch.no_grad():
        outputs = ours(batch, sizes)
    logits, deltas, anchors = outputs_of(theirs, as_floats)
    assert torch.equal(torch.cat([level.view(-1, 4) for level in outputs.anchors]), anchors)
    assert_close(torch.cat(outputs.class_logits, 1), logits[..., list(COCO_IDS)], rtol=1e-4, atol=1e-3)
    assert_close(torch.cat(outputs.box_deltas, 1), deltas, rtol=1e-4, atol=1e-3)
    assert logits.std() > 1 and deltas.std() > 0.1
    ours_and_theirs = ((outputs.class_logits, logits[..., list(COCO_IDS)]), (outputs.box_deltas, deltas))
    for name, (found, expected) in zip(("logits", "deltas"), ours_and_theirs, strict=True):
        error = (torch.cat(found, 1) - expected).abs().max() / expected.abs().max()
        record_property(f"largest difference of {name} / largest value", f"{error:.1e}")

    assert theirs.score_thresh == imported.postprocess.min_score == 0.05
    theirs.score_thresh = clear_threshold(logits.sigmoid())
    assert sum(bool((level.sigmoid() > theirs.score_thresh).any()) for level in outputs.class_logits) >= 3
    with torch.no_grad():
        expected = [of_coco(with_area(detections)) for detections in theirs(as_floats)]
    postprocess = Postprocess(min_score=theirs.score_thresh, top_k=TOP_K, max_detections=MAX_DETECTIONS)

    counts = [level.shape[1] for level in outputs.class_logits]
    coco_logits = logits[..., list(COCO_IDS)]
    same_outputs = HeadOutputs(list(coco_logits.split(counts, 1)), list(deltas.split(counts, 1)), outputs.anchors)
    for detections, reference in zip(postprocess(same_outputs, sizes, sizes), expected, strict=True):
        assert 20 < len(detections.labels) == len(reference["labels"]) < MAX_DETECTIONS
        assert len(detections.labels.unique()) > 5
        assert num_unmatched(by_id(detections), reference) == 0

    # Our own outputs differ by rounding, so NMS may keep a different one of two nearly equal boxes.
    for detections, reference in zip(postprocess(outputs, sizes, sizes), expected, strict=True):
        assert abs(len(detections.labels) - len(reference["labels"])) <= len(detections.labels) // 100
        assert num_unmatched(by_id(detections), reference) <= len(detections.labels) // 100
        record_property("detections", len(detections))
        record_property("detections that differ", num_unmatched(by_id(detections), reference))


@pytest.mark.slow
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_predictor_differs_from_torchvision_only_by_how_images_are_resized_and_padded(version, record_property):
    """torchvision resizes floats without antialiasing and pads less. Without these differences, detections agree."""
    image = original_images()[0]
    shorter = min(image.shape[1:]) // 2
    torch.manual_seed(0)
    theirs = build_theirs(version, shorter=shorter)
    height, width = resized(*image.shape[1:], shorter, 10 * shorter)
    resized_image = F.resize(image, [height, width], antialias=True)
    spread_out(theirs, [resized_image / 255])
    imported = import_torchvision(theirs.state_dict(), source="torchvision")
    theirs.score_thresh = clear_threshold(outputs_of(theirs, [resized_image / 255])[0].sigmoid())
    with torch.no_grad():
        same_pixels, own_resize = (with_area(of_coco(theirs([pixels / 255])[0])) for pixels in (resized_image, image))

    def share_matched(reference, **resize):
        checkpoint = imported.checkpoint()
        settings = PostprocessConfig(min_score=theirs.score_thresh, top_k=TOP_K, max_detections=MAX_DETECTIONS)
        cfg = checkpoint.config.model_copy(
            update={
                "data": DataConfig(resize=ResizeConfig(shorter=(shorter,), longer=10 * shorter, **resize)),
                "postprocess": settings,
                "inference": InferenceConfig(precision="fp32"),
                "device": "cpu",
            }
        )
        model = build_model(imported.model, 80)
        model.load_state_dict(imported.state)
        found = by_id(Predictor(model, imported.class_names, imported.category_ids, cfg)(image))
        scale = torch.tensor([image.shape[2] / width, image.shape[1] / height] * 2)
        if reference is same_pixels:
            reference = {**reference, "boxes": reference["boxes"] * scale}
        overlap = box_iou(found.boxes, reference["boxes"]) * (found.labels[:, None] == reference["labels"])
        best = overlap.amax(1)
        record_property("detections", len(found))
        return 1 - num_unmatched(found, reference) / len(found), (best > 0.5).float().mean().item()

    exact_padding = {"bucket_aspects": (max(image.shape[1:]) / min(image.shape[1:]),)}
    matched, overlapping = share_matched(same_pixels, **exact_padding)
    assert matched >= 0.99 and overlapping >= 0.99
    record_property("same pixels and padding, equal detections", f"{matched:.1%}")
    for name, (_, share) in {
        "same pixels, padded shape of our bucket": share_matched(same_pixels),
        "torchvision resizes the image itself": share_matched(own_resize, **exact_padding),
    }.items():
        record_property(f"{name}, same class and IoU > 0.5", f"{share:.1%}")


@pytest.mark.parametrize(
    ("version", "class_names", "range_of_threshold"),
    [("v1", COCO_NAMES[::-1], (0.75, 0.85)), ("v2", ("cat", "dog", "bird"), (0.1, 0.3))],
    ids=["COCO", "own classes"],
)
def test_torchvision_detects_the_same_with_exported_weights(version, class_names, range_of_threshold):
    """A checkpoint of ours, with the classes of COCO in another order or with other classes, is exported."""
    images = sample_images()
    as_floats = [image / 255 for image in images]
    torch.manual_seed(0)
    original = build_theirs(version, len(class_names))
    spread_out(original, as_floats)
    imported = import_torchvision(original.state_dict(), source="torchvision", class_names=class_names)
    ours = build_model(imported.model, len(class_names)).eval()
    ours.load_state_dict(imported.state)
    cfg = Config(model=imported.model, train=TrainConfig(steps=1))
    checkpoint = Checkpoint(cfg, tuple(class_names), (), 1, {"model": ours.state_dict()})

    is_coco = len(class_names) == 80
    theirs = build_theirs(version, NUM_SLOTS if is_coco else 3)
    theirs.load_state_dict(export_torchvision(checkpoint))
    slot_of = torch.tensor([COCO_IDS[COCO_NAMES.index(name)] if is_coco else k for k, name in enumerate(class_names)])

    batch, sizes = batched(images)
    with torch.no_grad():
        outputs = ours(batch, sizes)
    threshold = theirs.score_thresh = clear_threshold(torch.cat(outputs.class_logits, 1).sigmoid(), *range_of_threshold)
    with torch.no_grad():
        expected = [with_area(detections) for detections in theirs(as_floats)]
    settings = PostprocessConfig(min_score=threshold, top_k=TOP_K, max_detections=MAX_DETECTIONS)
    found = build_postprocess(settings, background_logit=False)(outputs, sizes, sizes)
    for detections, reference in zip(found, expected, strict=True):
        count = len(detections)
        with_slots = Detections(detections.boxes, detections.scores, slot_of[detections.labels])
        assert 20 < count < MAX_DETECTIONS and abs(count - len(reference["labels"])) <= count // 100
        assert num_unmatched(with_slots, reference) <= count // 100

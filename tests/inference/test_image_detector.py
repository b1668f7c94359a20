import pytest
import torch

from retinanet.formats.images.windows import DecodedImage
from retinanet.inference.image_detector import build_image_detector
from retinanet.inference.predictor import Predictor
from retinanet.model.retinanet import build_model
from retinanet.structures import Detections
from tests.helpers.checkpoints import overdetecting_config

NAMES = ["one", "two", "three"]


@pytest.fixture(scope="module")
def predictor_with():
    """Makes predictors with some config keys, from one network with random weights that detects objects everywhere."""
    cfg = overdetecting_config()
    torch.manual_seed(0)
    model = build_model(cfg.model, len(NAMES))

    def make(*, tile=None, augment=None, postprocess=None, merge="nms", thresholds=None) -> Predictor:
        updates = {"tile": cfg.inference.tile.model_copy(update=tile or {})}
        updates |= {"augment": cfg.inference.augment.model_copy(update=augment or {}), "merge": merge}
        changed = cfg.model_copy(
            update={
                "inference": cfg.inference.model_copy(update=updates),
                "postprocess": cfg.postprocess.model_copy(update=postprocess or {}),
            }
        )
        return Predictor(model, NAMES, [1, 2, 3], changed, thresholds=thresholds)

    return make


def noise(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def assert_equal(found: Detections, expected: Detections) -> None:
    assert torch.equal(found.boxes, expected.boxes)
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.labels, expected.labels)


def as_set(detections: Detections) -> set[tuple[float, ...]]:
    numbers = torch.cat([detections.boxes, detections.scores[:, None], detections.labels[:, None].float()], dim=1)
    return {tuple(row) for row in numbers.tolist()}


def test_image_that_fits_in_a_tile_gives_the_plain_detections(predictor_with):
    image = noise(60, 90)
    assert_equal(predictor_with(tile={"size": 90})(image), predictor_with()(image))


def test_four_copies_of_an_image_give_four_times_its_detections(predictor_with):
    """The tiles are the copies. No box of one tile overlaps a box of another, so merging removes nothing."""
    image = noise(60, 60)
    (plain,) = predictor_with().predict([image], batch_size=1)
    tiled = predictor_with(tile={"size": 60, "overlap": 0.0, "whole_image": False})
    (found,) = tiled.predict([image.repeat(1, 2, 2)], batch_size=1)
    assert len(found) == 4 * len(plain) == 400  # the limit of 100 applies to each tile
    copies = [
        Detections(plain.boxes + torch.tensor([x, y, x, y]), plain.scores, plain.labels)
        for x in (0.0, 60.0)
        for y in (0.0, 60.0)
    ]
    assert as_set(found) == set.union(*map(as_set, copies))


def test_flipped_image_gives_flipped_detections(predictor_with):
    """With test-time augmentation, the network sees both images in both cases."""
    image = noise(60, 90)
    predictor = predictor_with(augment={"flip": True})
    found, flipped = (next(predictor.predict([item], batch_size=1)) for item in (image, image.flip(-1)))
    x1, y1, x2, y2 = flipped.boxes.unbind(-1)
    mirrored = Detections(torch.stack([90 - x2, y1, 90 - x1, y2], dim=-1), flipped.scores, flipped.labels)
    assert len(found) == len(mirrored) == 100
    torch.testing.assert_close(found.boxes, mirrored.boxes, rtol=0, atol=1e-4)
    assert torch.equal(found.scores, mirrored.scores) and torch.equal(found.labels, mirrored.labels)


def test_augmentation_keeps_the_limit_of_an_image(predictor_with):
    image = noise(60, 90)
    augmented = predictor_with(augment={"flip": True, "scales": (1.5,)}, postprocess={"max_detections": 30})
    assert len(augmented(image)) == 30
    assert augmented(image).scores[0] >= predictor_with()(image).scores[0]


def test_network_sees_each_view_at_its_size(predictor_with):
    """The shorter side is resized to 64 pixels, 1.5 times that at the other scale."""
    predictor, sizes = predictor_with(tile={"size": 80}, augment={"flip": True, "scales": (1.5,)}), []
    predictor.model.register_forward_pre_hook(lambda module, inputs: sizes.extend(inputs[1].tolist()))
    predictor(noise(80, 120))
    whole, tile = [[64, 96], [96, 144]], [[64, 64], [96, 96]]
    assert sorted(sizes) == sorted(2 * (whole + 2 * tile))


def test_windows_are_read_batch_by_batch(predictor_with):
    class Recorded(DecodedImage):
        def read(self, window):
            events.append(window)
            return super().read(window)

    events = []
    predictor = predictor_with(tile={"size": 40, "whole_image": False})
    predictor.model.register_forward_pre_hook(lambda module, inputs: events.append("network"))
    image = noise(100, 140)
    found = predictor.detect_in(Recorded(image), batch_size=2)
    # Tiles start at 0, 32 and 60 from the top, and at 0, 32, 64, 96 and 100 from the left.
    windows = [event for event in events if event != "network"]
    assert len(windows) == len(set(windows)) == 15
    assert events[:3] == [*windows[:2], "network"]
    assert "".join("n" if event == "network" else "w" for event in events) == "wwn" * 7 + "wn"
    assert found.class_names == tuple(NAMES)
    (expected,) = predictor.predict([image], batch_size=2)
    assert_equal(found, expected)


def test_flipped_copies_do_not_read_a_window_twice(predictor_with):
    class Counted(DecodedImage):
        def read(self, window):
            windows.append(window)
            return super().read(window)

    windows = []
    predictor_with(tile={"size": 50}, augment={"flip": True}).detect_in(Counted(noise(50, 90)), batch_size=8)
    assert len(windows) == 3


@pytest.mark.parametrize("compile", [False, True])
def test_views_for_a_compiled_network_are_not_batched(predictor_with, compile):
    """Each batch size would be compiled separately. The network itself is not compiled here."""
    predictor, sizes = predictor_with(tile={"size": 50}), []
    cfg = predictor.cfg
    cfg = cfg.model_copy(update={"inference": cfg.inference.model_copy(update={"compile": compile})})
    predictor.model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    detector = build_image_detector(cfg, predictor.model, device=torch.device("cpu"))
    detector([DecodedImage(noise(50, 130))], batch_size=2)
    # The whole image is of another padded shape than its three tiles, at 0, 40 and 80.
    assert sizes == ([1, 1, 1, 1] if compile else [1, 2, 1])


def test_thresholds_apply_after_merging(predictor_with):
    """Averaged scores are compared with the thresholds, not the scores in the views."""
    image = noise(60, 90)
    merged = predictor_with(augment={"flip": True}, merge="weighted_boxes")(image)
    threshold = float(merged.scores.median())
    limited = predictor_with(augment={"flip": True}, merge="weighted_boxes", thresholds=[threshold] * 3)(image)
    assert 0 < len(limited) < len(merged)
    assert_equal(limited, merged[merged.scores > threshold])


def test_images_of_a_batch_are_merged_separately(predictor_with):
    predictor = predictor_with(tile={"size": 50})
    images = [noise(50, 90, 1), noise(40, 40, 2), noise(50, 90, 3)]
    together = list(predictor.predict(images, batch_size=3))
    for image, found in zip(images, together, strict=True):
        alone = predictor(image)
        assert len(found) == len(alone)
        torch.testing.assert_close(found.scores, alone.scores, rtol=0, atol=1e-5)

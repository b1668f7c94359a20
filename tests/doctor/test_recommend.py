from dataclasses import replace

import numpy as np
import pytest
import torch

from retinanet.config import Config, DataConfig, ResizeConfig, TrainConfig
from retinanet.config.load import load_config, with_overrides
from retinanet.doctor.anchor_proposal import fit_anchors
from retinanet.doctor.recommend import (
    Machine,
    describe_machine,
    recommend,
    recommend_anchors,
    recommend_batch,
    recommend_image_size,
    recommend_sampling,
    recommend_schedule,
)
from tests.helpers.datasets import dataset_of, image_record

LARGE = Machine(torch.device("cpu"), 64 * 2**30)


def config(resize=None, **train) -> Config:
    return Config(
        data=DataConfig(resize=ResizeConfig(**(resize or {}))), train=TrainConfig(**({"steps": 1000} | train))
    )


def photos(sides, *, height=3000, width=4000):
    """One image with square objects of the given sides."""
    return dataset_of([image_record(height=height, width=width, boxes=[(0, 0, side, side) for side in sides])])


def many(num_images, labels=(0,), num_classes=1):
    """Images with one object each; image n has the label n of `labels`, or the last one."""
    chosen = [labels[min(n, len(labels) - 1)] for n in range(num_images)]
    images = [image_record(labels=[label], image_id=n) for n, label in enumerate(chosen)]
    return dataset_of(images, class_names=tuple("abcdefgh"[:num_classes]))


# Image size


def test_small_objects_in_large_images_need_larger_images():
    # 30 pixels at 320 / 3000 are 3.2 pixels. 16 need a shorter side of 1600, which is a multiple of 32.
    cfg = config({"shorter": (320,), "longer": 533})
    found = recommend_image_size(photos([30] * 20), cfg)
    # 533 * 1600 / 320 = 2665, rounded up to a multiple of 32
    assert found.lines == ("data.resize.shorter=1600", "data.resize.longer=2688")
    assert "25.0 times as many pixels" in found.sentence
    changed = with_overrides(cfg, found.lines, source="test")
    assert recommend_image_size(photos([30] * 20), changed).lines == ()


def test_five_percent_of_the_objects_may_be_smaller():
    cfg = config({"shorter": (320,), "longer": 533})
    assert recommend_image_size(photos([200] * 19 + [5]), cfg).lines == ()
    # If 2 of 20 objects are small, they count: 40 pixels need 3000 * 16 / 40 = 1200, rounded up to 1216.
    assert recommend_image_size(photos([200] * 18 + [40] * 2), cfg).lines[0] == "data.resize.shorter=1216"


def test_large_objects_do_not_shrink_the_images():
    found = recommend_image_size(photos([2000] * 5), config())
    assert found.lines == ()
    assert "100 % of the objects" in found.sentence and "large enough" in found.sentence


def test_images_are_not_enlarged_beyond_the_original_size():
    # Objects of 5 to 25 pixels in images of 480 x 640: 5 of 20 have 16 pixels at 320, and 10 of 20 at 480.
    sides = [25] * 5 + [18] * 5 + [5] * 10
    found = recommend_image_size(photos(sides, height=480, width=640), config({"shorter": (320,), "longer": 640}))
    assert found.lines == ("data.resize.shorter=480", "data.resize.longer=960")
    assert "only 25 % of the objects" in found.sentence and "50 % do" in found.sentence
    hopeless = recommend_image_size(photos([5] * 9, height=480, width=640), config({"shorter": (320,), "longer": 640}))
    assert hopeless.lines == ()
    assert "annotate at a higher resolution" in hopeless.sentence
    at_full_size = recommend_image_size(photos([5] * 9, height=480, width=640), config())
    assert at_full_size.lines == ()


def test_all_sizes_of_a_list_are_scaled():
    cfg = config({"shorter": (480, 640), "longer": 1000, "val_shorter": 320})
    found = recommend_image_size(photos([75] * 5), cfg)  # 640 pixels, twice the 320 of the evaluation
    assert found.lines == (
        "data.resize.shorter=[960, 1280]",
        "data.resize.longer=2016",
        "data.resize.val_shorter=640",
    )
    assert with_overrides(cfg, found.lines, source="test").data.resize.val_shorter == 640


def test_the_longer_side_limits_the_size():
    # 500 x 4000 at 320 and at most 640 is 80 x 640, a scale of 0.16: an object of 60 pixels has 9.6.
    cfg = config({"shorter": (320,), "longer": 640})
    found = recommend_image_size(photos([60] * 5, height=500, width=4000), cfg)
    assert found.lines == ()  # even at 500, the scale is 1000 / 4000
    assert "15" not in found.sentence and "only 0 %" in found.sentence


# Anchors


def test_anchors_are_recommended_if_they_are_better():
    tall = dataset_of(
        [image_record(height=128, width=128, boxes=[(7 * n, 5 * n, 7 * n + 12, 5 * n + 72)]) for n in range(8)]
    )
    cfg = config({"shorter": (128,), "longer": 128, "bucket_aspects": (1.0,)})
    proposal = fit_anchors(tall, cfg)
    found = recommend_anchors(proposal)
    assert found.lines == tuple(proposal.config_lines()) != ()
    assert f"these are {100 * proposal.shares[1]:.1f} %" in found.sentence
    assert recommend_anchors(proposal._replace(after=proposal.before)).lines == ()
    # At an IoU of 0.01, all objects are covered before and after: a better mean IoU alone does not justify a change.
    assert recommend_anchors(proposal._replace(fg_iou=0.01)).lines == ()


@pytest.mark.parametrize("covered, is_recommended", [(7, True), (8, False), (9, False)])
def test_anchors_are_kept_if_most_objects_reach_the_foreground_iou(covered, is_recommended):
    tall = dataset_of([image_record(height=128, width=128, boxes=[(5 * n, 0, 5 * n + 12, 72) for n in range(10)])])
    proposal = fit_anchors(tall, config({"shorter": (128,), "longer": 128, "bucket_aspects": (1.0,)}))
    before = replace(proposal.before, best_iou=np.float32([0.6] * covered + [0.3] * (10 - covered)))
    after = replace(proposal.after, best_iou=np.full(10, 0.9, dtype=np.float32))
    found = recommend_anchors(proposal._replace(before=before, after=after, fg_iou=0.5))
    assert bool(found.lines) == is_recommended
    assert f"{10 * covered}.0 % of the objects reach an IoU of 0.5" in found.sentence


def test_no_anchors_are_recommended_without_objects():
    cfg = config({"shorter": (128,), "longer": 128, "bucket_aspects": (1.0,)})
    assert recommend_anchors(fit_anchors(dataset_of([image_record(boxes=[])]), cfg)).lines == ()


# Batch


def test_batch_is_not_larger_than_the_dataset():
    assert recommend_batch(many(20), config(batch_size=16), LARGE).lines == ()
    found = recommend_batch(many(5), config(batch_size=16, accumulate=8), LARGE)
    assert found.lines == ("train.batch_size=5", "train.accumulate=5")


def test_batch_is_split_to_fit_in_memory():
    # Images of 3:4 have the padded shape 800 x 1088: 870,400 pixels of 2,220 bytes are 1.93 GB. Of 20 GB, 80 % less
    # 1.61 GB fit 7.4 images, so a batch of 16 needs three parts.
    cfg, gpu = config(batch_size=16), Machine(torch.device("cuda"), 20 * 10**9)
    found = recommend_batch(many(20), cfg, gpu)
    assert found.lines == ("train.accumulate=3",)
    assert "1.9 GB of the 20 GB of cuda, so 7 fit at once" in found.sentence
    assert "batch norm" not in found.sentence
    assert recommend_batch(many(20), config(accumulate=4), gpu).lines == ()
    # A backbone that was not measured counts like the largest: 5.20 GB, 2 images, eight parts.
    deep = with_overrides(cfg, ["model.backbone.name=resnet101", "model.backbone.norm=batch"], source="test")
    found = recommend_batch(many(20), deep, gpu)
    assert found.lines == ("train.accumulate=8",)
    assert "batch norm then normalises over fewer images" in found.sentence
    head = with_overrides(cfg, ["model.head_norm=batch_per_level"], source="test")
    assert "batch norm then normalises over fewer images" in recommend_batch(many(20), head, gpu).sentence


def test_batch_on_a_machine_without_enough_or_known_memory():
    tiny = recommend_batch(many(20), config(batch_size=16), Machine(torch.device("cuda"), 2 * 10**9))
    assert tiny.lines == ("train.accumulate=16",)
    assert "0 fit at once" in tiny.sentence and "lower data.resize.shorter" in tiny.sentence
    unknown = recommend_batch(many(20), config(batch_size=16), Machine(torch.device("mps"), None))
    assert unknown.lines == ()
    assert "unknown" in unknown.sentence


def test_memory_of_this_machine():
    machine = describe_machine(torch.device("cpu"))
    assert machine.memory is None or 2**28 < machine.memory < 2**50
    assert describe_machine(torch.device("meta")).memory is None


# Sampling


def test_images_with_rare_classes_are_repeated_if_the_classes_are_highly_imbalanced():
    # 200 images with class a, 2 with b: a factor of 100. The threshold is 200 / 100 of 202 images, 0.0099.
    imbalanced = many(202, labels=(1, 1, 0), num_classes=2)
    found = recommend_sampling(imbalanced, config())
    assert found.lines == ("data.sampling={type: repeat_factor, threshold: 0.0099}",)
    assert "a occurs in 200 image(s), b in 2" in found.sentence
    assert recommend_sampling(many(201, labels=(1, 1, 0), num_classes=2), config()).lines == ()
    changed = with_overrides(config(), found.lines, source="test")
    assert recommend_sampling(imbalanced, changed).lines == ()


def test_sampling_counts_images_not_objects():
    # 300 objects of a in one image, and one of b in another: both classes occur in one image.
    images = [image_record(boxes=[(1, 1, 5, 5)] * 300), image_record(labels=[1], image_id=2)]
    assert recommend_sampling(dataset_of(images, class_names=("a", "b")), config()).lines == ()


@pytest.mark.parametrize("num_classes", [1, 3])
def test_sampling_ignores_classes_without_objects(num_classes):
    assert recommend_sampling(many(500, num_classes=num_classes), config()).lines == ()


# Schedule


def test_short_runs_get_enough_steps():
    # 40 images in batches of 8 are 5 steps; 600 steps are 120 epochs, even above MAX_EPOCHS.
    found = recommend_schedule(many(40), config(steps=None, epochs=12, batch_size=8, warmup_steps=50))
    assert found.lines == ("train.epochs=120",)
    assert "60 steps, 12.0 epochs of 40 image(s), are too few; 120 epochs are 600 steps" in found.sentence


def test_epochs_follow_the_sampling():
    # Class b is in 2 of 40 images, a share of 0.05: with a threshold of 0.8, these images are used 4 times per epoch.
    # 46 images, rounded up to whole batches, are 6 steps; 600 steps are 100 epochs.
    cfg = config(steps=None, epochs=12, batch_size=8, warmup_steps=50)
    cfg = with_overrides(cfg, "data.sampling={type: repeat_factor, threshold: 0.8}", source="test")
    found = recommend_schedule(many(40, labels=(1, 1, 0), num_classes=2), cfg)
    assert found.lines == ("train.epochs=100",)


def test_runs_of_a_large_dataset_are_shortened_on_a_small_one():
    # 90,000 steps of 16 images over 400 images are 3600 epochs; 100 epochs are 2500 steps.
    found = recommend_schedule(many(400), config(steps=90_000, warmup_steps=250))
    assert found.lines == ("train.epochs=100",)
    assert "too many" in found.sentence


def test_warmup_is_at_most_a_fifth_of_the_run():
    found = recommend_schedule(many(400), config(steps=2000, warmup_steps=1000))
    assert found.lines == ("train.warmup_steps=400",)
    assert recommend_schedule(many(400), config(steps=2000, warmup_steps=400)).lines == ()


# Together


def test_all_topics_for_a_bundled_recipe():
    """Large photos with small tall objects, on few images: everything but the batch needs a change."""
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 800, (12, 3, 2))
    images = [
        image_record(height=960, width=960, boxes=[(x, y, x + 24, y + 72) for x, y in image], image_id=number)
        for number, image in enumerate(corners)
    ]
    cfg = load_config("bccd_r18", ["data.resize={shorter: 160, longer: 160, bucket_aspects: [1.0]}"])
    found = recommend(dataset_of(images), cfg, LARGE).recommendations
    assert [entry.topic for entry in found] == ["image size", "levels", "anchors", "batch", "sampling", "schedule"]
    # sqrt(24 * 72) = 41.6 pixels need 960 * 16 / 41.6 = 369.5, rounded up to 384.
    assert found[0].lines[0] == "data.resize.shorter=384"
    assert (len(found[1].lines), len(found[2].lines)) == (0, 3)
    assert [entry.lines for entry in found[3:5]] == [(), ()]
    assert found[5].lines == ("train.epochs=400",)  # 1.5 steps per epoch
    changed = with_overrides(cfg, [line for entry in found for line in entry.lines], source="test")
    again = recommend(dataset_of(images), changed, LARGE)
    assert [entry.lines for entry in again.recommendations] == [()] * 6
    assert not again.changes_objects_or_levels

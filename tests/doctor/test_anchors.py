import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from retinanet.config import (
    AnchorConfig,
    ATSSAssignmentConfig,
    Config,
    DataConfig,
    IoUAssignmentConfig,
    ModelConfig,
    ResizeConfig,
    TrainConfig,
)
from retinanet.config.load import load_config
from retinanet.data.build import build_eval_sampler, eval_loader, load_train_data
from retinanet.data.collate import pad_targets
from retinanet.detection.anchors import AnchorGenerator
from retinanet.detection.assignment import assign_reference
from retinanet.detection.atss import assign_atss
from retinanet.detection.boxes import overlap
from retinanet.doctor.anchors import match_quality, plan_evaluation, resized_boxes, sample_images, summary_table
from tests.helpers.boxes import random_boxes
from tests.helpers.datasets import dataset_of, image_record

RESIZE = ResizeConfig(shorter=(64,), longer=96, bucket_aspects=(1.0, 1.5), divisor=32)


def config(assignment=None, **anchors) -> Config:
    return Config(
        data=DataConfig(resize=RESIZE),
        model=ModelConfig(anchors=AnchorConfig(**{"sizes": (16, 32, 64, 128, 256)} | anchors)),
        assignment=assignment or IoUAssignmentConfig(),
        train=TrainConfig(steps=1),
    )


def crowded():
    """Three images of different padded shapes, with objects that compete for anchors; one has no object."""
    random = [random_boxes(count, seed=count).clamp(max=100).numpy() for count in (9, 1, 14)]
    return dataset_of(
        [
            image_record(height=100, width=130, boxes=random[0], labels=[0, 1, 2] * 3, is_crowd=[True] + 8 * [False]),
            image_record(height=128, width=128, boxes=[], image_id=2),
            image_record(height=128, width=100, boxes=random[2], labels=[1] * 14, image_id=3),
        ],
        class_names=("cat", "dog", "cow"),
    )


def test_resized_boxes_equal_those_of_the_loader(shapes, tiny_overrides):
    cfg = load_config("quickstart", tiny_overrides)
    dataset = load_train_data(cfg)
    planned = plan_evaluation(dataset, cfg)
    boxes = resized_boxes(dataset, planned)
    for batch in eval_loader(cfg, dataset, build_eval_sampler(cfg, dataset), pin_memory=False):
        for index, truth in zip(batch.image_indices, batch.targets.boxes, strict=True):
            expected = boxes[dataset.box_start[index] : dataset.box_start[index + 1]]
            assert torch.equal(truth[: len(expected)], torch.from_numpy(expected))
            assert planned[index].padded_shape == batch.images.shape[-2:]


@pytest.mark.parametrize(
    ("assignment", "rule"),
    [
        (IoUAssignmentConfig(), assign_reference),
        (
            IoUAssignmentConfig(fg_iou=0.6, low_quality_matches=False),
            partial(assign_reference, fg_iou=0.6, low_quality_matches=False),
        ),
        (ATSSAssignmentConfig(), assign_atss),
    ],
    ids=["iou", "strict", "atss"],
)
def test_report_equals_a_comparison_with_every_anchor(assignment, rule):
    cfg, dataset = config(assignment), crowded()
    report = match_quality(dataset, cfg)
    generator = AnchorGenerator(**cfg.model.anchors.model_dump())
    # Shorter side 64: 100 x 130 becomes 64 x 83 in 64 x 96; 128 x 100 becomes 82 x 64 in 96 x 64.
    for index, shape, new_size in ((0, (64, 96), (64, 83)), (2, (96, 64), (82, 64))):
        image = dataset.image(index)
        rows = slice(dataset.box_start[index], dataset.box_start[index + 1])
        scale = torch.tensor([new_size[1] / image.width, new_size[0] / image.height] * 2)
        boxes = torch.from_numpy(image.boxes) * scale
        anchors = generator(*shape)
        targets = pad_targets([(boxes, torch.from_numpy(image.labels), torch.from_numpy(image.is_crowd))])
        assignment = rule(anchors, targets)
        expected = [
            int((assignment.positive[0] & (assignment.gt_index[0] == row)).sum()) for row in range(len(image.boxes))
        ]
        assert report.num_positive[rows].tolist() == expected
        intersection, union = overlap(boxes[:, None], torch.cat([level.reshape(-1, 4) for level in anchors]))
        best = (intersection / union).amax(dim=1).numpy()
        np.testing.assert_allclose(report.best_iou[rows], best, rtol=0, atol=1e-6)
    assert report.num_positive.tolist() != [1] * len(report.num_positive)


@pytest.mark.parametrize(("match_every_object", "unmatched"), [(False, 1), (True, 0)])
def test_a_neighbour_can_take_all_anchors_of_an_object(match_every_object, unmatched):
    # The two boxes are equal, so every anchor belongs to the first of them.
    dataset = dataset_of([image_record(height=64, width=64, boxes=[(16, 16, 48, 48)] * 2)])
    cfg = config(IoUAssignmentConfig(match_every_object=match_every_object))
    report = match_quality(dataset, cfg)
    assert report.total.unmatched == report.lost.unmatched == unmatched
    assert report.best_iou.tolist() == [1, 1]  # an anchor of 32 pixels is centred at (32, 32)
    assert report.lost.suppressed == 1 - unmatched  # of two equal boxes with an anchor, NMS keeps one


def test_groups_by_class_and_size():
    # A quarter of the original size: 128 x 128 becomes 32 x 32, 3 x 200 becomes 0.75 x 50, 40 x 40 becomes 10 x 10.
    boxes = [(64, 64, 192, 192), (50, 40, 53, 240), (100, 100, 140, 140), (0, 0, 250, 250)]
    dataset = dataset_of(
        [image_record(height=256, width=256, boxes=boxes, labels=[0, 1, 1, 1], is_crowd=[False, False, False, True])],
        class_names=("cat", "dog", "cow"),
    )
    report = match_quality(dataset, config())
    assert report.placement.sides[:3].tolist() == [[32, 32], [0.75, 50], [10, 10]]
    assert report.total.objects == 3
    assert {name: group.objects for name, group in report.by_class.items()} == {"cat": 1, "dog": 2, "cow": 0}
    # Areas: 16384, 600 and 1600 pixels; after the resize 1024, 37.5 and 100. The limits are 1024 and 9216.
    assert {name: group.objects for name, group in report.by_size.items()} == {"small": 1, "medium": 1, "large": 1}
    resized = {name: group.objects for name, group in report.by_resized_size.items()}
    assert resized == {"small": 2, "medium": 1, "large": 0}
    assert (report.total.below_a_pixel, report.by_class["dog"].below_a_pixel) == (1, 1)
    # The cat equals an anchor. The 10 x 10 dog is centred at (30, 30), inside an anchor of 16 pixels that is centred at
    # (32, 32): IoU 100 / 256. The thin dog has a lower IoU.
    cat, dog = report.by_class["cat"], report.by_class["dog"]
    assert cat.reaching == {0.4: 1, 0.5: 1, 0.6: 1, 0.7: 1}
    assert dog.reaching == {0.4: 0, 0.5: 0, 0.6: 0, 0.7: 0}
    assert report.best_iou[2] == pytest.approx(100 / 256)
    assert report.total.reaching[0.5] == pytest.approx(1 / 3)
    assert report.total.mean_iou == pytest.approx(report.best_iou[:3].mean())
    assert report.total.positives == pytest.approx(report.num_positive[:3].mean())


def test_report_of_a_dataset_without_objects():
    dataset = dataset_of([image_record(boxes=[]), image_record(boxes=[(0, 0, 9, 9)], is_crowd=[True], image_id=2)])
    report = match_quality(dataset, config())
    assert report.total.objects == report.total.unmatched == 0
    assert math.isnan(report.total.mean_iou) and math.isnan(report.total.reaching[0.5])
    assert math.isnan(report.ceiling.metrics["AP"])
    assert "| all | 0 |" in summary_table(report)


def test_sample_contains_about_as_many_objects_as_requested():
    counts = [0, 3, 1, 0, 5, 2, 4, 0] * 5
    images = [
        image_record(boxes=[(1, 1, 9, 9)] * count + [(0, 0, 5, 5)], is_crowd=[False] * count + [True], image_id=index)
        for index, count in enumerate(counts)
    ]
    dataset = dataset_of(images)
    total = sum(counts)
    assert sample_images(dataset, None, seed=0) is sample_images(dataset, total, seed=0) is dataset
    sample = sample_images(dataset, 20, seed=0)
    assert 20 <= sample.object_counts()[0] < 20 + max(counts) + 1
    assert sample.image_ids == sample_images(dataset, 20, seed=0).image_ids == tuple(sorted(sample.image_ids))
    assert sample.image_ids != sample_images(dataset, 20, seed=1).image_ids
    report = match_quality(dataset, config(), max_objects=20)
    assert (report.dataset.image_ids, report.num_images) == (sample.image_ids, 40)
    assert f"{len(sample)} of 40 images" in summary_table(report)


def test_summary_table_has_a_row_for_each_group():
    dataset = replace(crowded(), class_names=("all", "dog", "c|w"))
    lines = summary_table(match_quality(dataset, config())).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:6]] == ["| all", "| all", "| dog", r"| c\|w"]
    assert lines[2] != lines[3]
    lines[5] = lines[5].replace(r"\|", "")
    assert len({line.count("|") for line in lines[:12]}) == 1
    assert lines[12] == ""
    assert "Ceiling: AP " in lines[13]

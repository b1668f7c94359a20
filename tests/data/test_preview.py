import json

import pytest
import torch

from retinanet.config import Config
from retinanet.data.build import build_train_sampler, load_train_data, train_loader
from retinanet.data.preview import augmented_samples, plan_images
from tests.helpers.tiny_runs import write_tiny_dataset

TRANSFORMS = [{"type": "mosaic"}, {"type": "scale_jitter"}, {"type": "flip"}]


@pytest.fixture
def cfg(tmp_path):
    source = write_tiny_dataset(tmp_path / "train", last_is_damaged=True)
    data = {"train": [source], "resize": {"shorter": 32, "longer": 48}, "transforms": TRANSFORMS, "workers": 0}
    return Config.model_validate_json(json.dumps({"data": data, "train": {"steps": 3, "batch_size": 3}}))


def test_samples_are_those_of_the_training_batches(cfg):
    data, rows = load_train_data(cfg), 0
    sampler = build_train_sampler(cfg, data)
    for batch in train_loader(cfg, data, start=0, stop=3, pin_memory=False):
        for row, sample in enumerate(augmented_samples(cfg, data, next(sampler))):
            height, width = sample.size
            assert batch.image_sizes[row].tolist() == [height, width]
            assert torch.equal(batch.images[row, :, :height, :width], sample.image)
            count = len(sample.boxes)
            assert torch.equal(batch.targets.boxes[row, :count], sample.boxes)
            assert torch.equal(batch.targets.labels[row, :count], sample.labels)
            assert torch.equal(batch.targets.is_crowd[row, :count], sample.is_crowd)
            rows += 1
    assert rows == 9


def test_chosen_images_are_planned_in_their_own_padded_shape(cfg):
    data = load_train_data(cfg)
    planned = plan_images(cfg, data, [0, 2, 0], epoch=1)
    assert [(image.index, image.epoch, image.shorter) for image in planned] == [(0, 1, 32), (2, 1, 32), (0, 1, 32)]
    assert [image.max_shape for image in planned] == [(32, 64), (64, 32), (32, 64)]  # 32 x 48, and its portrait
    samples = augmented_samples(cfg, data, planned)
    assert torch.equal(samples[0].image, samples[2].image)
    assert all(
        s.size[0] <= p.max_shape[0] and s.size[1] <= p.max_shape[1] for s, p in zip(samples, planned, strict=True)
    )

"""Drawn videos: equal frames give equal bytes, and frames with equal times are kept."""

import io

import numpy as np
import torch

from retinanet.formats.videos.reader import open_video
from retinanet.prediction.writers.video import write_video
from tests.helpers.videos import needs_pyav, noise_frames
from tests.helpers.videos import write_video as write_source

pytestmark = needs_pyav


def encoded(video, frames) -> bytes:
    file = io.BytesIO()
    write_video(file, video, frames)
    return file.getvalue()


def test_equal_frames_give_equal_bytes(tmp_path):
    """Whatever the memory contained before: with its default settings, x264 reads some that is not initialised."""
    generator = np.random.default_rng(0)
    (still,) = noise_frames(1, height=64, width=96)
    images = [
        np.roll(still, 3 * number, axis=1) // 2 + noise // 4
        for number, noise in enumerate(noise_frames(12, height=64, width=96, seed=1))
    ]
    video = open_video(write_source(tmp_path / "a.mp4", images))
    frames = [(number / 25, torch.from_numpy(image).permute(2, 0, 1)) for number, image in enumerate(images)]
    found, unrelated = set(), []
    for number in range(25):
        unrelated.append(np.full(generator.integers(1000, 300_000), number, dtype=np.uint8))
        del unrelated[:-10]
        found.add(encoded(video, frames))
    assert len(found) == 1


def test_frames_with_equal_times_are_kept(tmp_path):
    images = noise_frames(3)
    video = open_video(write_source(tmp_path / "a.mp4", images))
    frames = [
        (time, torch.from_numpy(image).permute(2, 0, 1)) for time, image in zip((0, 0, 0.04), images, strict=True)
    ]
    (tmp_path / "b.mp4").write_bytes(encoded(video, frames))
    times = [frame.time for frame in open_video(tmp_path / "b.mp4")]
    assert len(times) == 3 and times[0] < times[1] < times[2] == 0.04

"""Drawn videos: equal frames give equal bytes, and frames with equal times are kept."""

import io
from contextlib import suppress

import numpy as np
import pytest
import torch

from retinanet.formats.videos.reader import open_video
from retinanet.prediction.writers.video import NotDrawn, write_video
from tests.helpers.videos import cut, needs_pyav, noise_frames
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


def test_frames_that_h264_does_not_support(tmp_path):
    images = noise_frames(1, height=16, width=16_400)  # x264 encodes at most 16,384 columns
    video = open_video(write_source(tmp_path / "a.mkv", images, codec="ffv1", pixels="bgr0"))
    with pytest.raises(NotDrawn, match=r"a\.mkv: its frames of 16400 x 16 pixels, 25 per second, cannot be encoded"):
        encoded(video, ((frame.time, frame.image) for frame in video))


def test_damage_that_appears_while_a_video_is_drawn(tmp_path):
    frames, options = noise_frames(24), {"movflags": "faststart"}
    file = write_source(tmp_path / "a.mp4", frames, codec="mpeg4", options=options)
    video = open_video(file)
    cut(file, 0.5)
    with pytest.raises(NotDrawn, match=r"a\.mp4: damaged or truncated .*; the video is not drawn"):
        encoded(video, ((frame.time, frame.image) for frame in video))


def test_a_full_disk_is_not_an_error_of_the_video(tmp_path, small_disk):
    video = open_video(write_source(tmp_path / "a.mp4", noise_frames(12, height=480, width=640)))
    frames = ((frame.time, frame.image) for frame in video)
    with suppress(OSError), open(small_disk / "a.mp4", "wb") as file:  # closing it fails, too
        with pytest.raises(OSError, match="No space left on device"):
            write_video(file, video, frames)

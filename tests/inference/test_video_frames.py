"""Detections in the frames of a video, read one by one."""

import pytest
import torch

from retinanet import Predictor, open_video
from retinanet.errors import InputError
from tests.helpers.predictions import save_overdetecting_checkpoint
from tests.helpers.videos import needs_pyav, noise_frames, write_video

pytestmark = needs_pyav


@pytest.fixture
def predictor(tmp_path):
    return Predictor.from_checkpoint(save_overdetecting_checkpoint(tmp_path / "checkpoints"))


@pytest.fixture
def clip(tmp_path):
    """A video of five frames."""
    return write_video(tmp_path / "clip.mp4", noise_frames(5))


def test_frames_of_a_generator_are_read_lazily(predictor, clip):
    taken = []

    def frames():
        for frame in open_video(clip):
            taken.append(frame.number)
            yield frame

    found = predictor.predict(frames(), batch_size=2)
    first = next(found)
    assert taken == [0, 1]
    assert len(list(found)) == 4
    frame = next(iter(open_video(clip)))
    assert torch.equal(predictor(frame.image).scores, predictor(frame).scores)
    torch.testing.assert_close(predictor(frame).boxes, first.boxes, rtol=1e-3, atol=1e-2)


def test_a_video_passed_as_an_image_gets_advice(predictor, clip):
    with pytest.raises(InputError, match=r"clip\.mp4: is a video \(MP4 or QuickTime\).*retinanet\.open_video"):
        predictor(clip)

"""Frames of videos: pixels as displayed, times, and damaged files."""

import os
from fractions import Fraction

import numpy as np
import pytest
import torch

from retinanet.errors import InputError
from retinanet.formats.videos.reader import open_video
from tests.helpers.videos import (
    CLOCKWISE,
    COUNTERCLOCKWISE,
    HALF_TURN,
    MIRRORED,
    UPRIGHT,
    cut,
    needs_pyav,
    noise_frames,
    rotate,
    write_video,
)

pytestmark = needs_pyav


def images_of(video) -> list[np.ndarray]:
    return [frame.image.permute(1, 2, 0).numpy() for frame in video]


def test_a_lossless_video_has_exactly_its_frames(tmp_path):
    frames = noise_frames(5, height=47, width=63)
    video = open_video(write_video(tmp_path / "Größe 方块.mkv", frames, codec="ffv1", pixels="bgr0"))
    assert (video.size, video.frame_rate) == ((47, 63), 25)
    found = list(video)
    assert [frame.number for frame in found] == [0, 1, 2, 3, 4]
    assert [frame.time for frame in found] == [0, 0.04, 0.08, 0.12, 0.16]
    for frame, expected in zip(found, frames, strict=True):
        assert frame.image.dtype == torch.uint8 and frame.image.is_contiguous()
        np.testing.assert_array_equal(frame.image.permute(1, 2, 0).numpy(), expected)
    assert len(list(video)) == 5  # it can be read again
    np.testing.assert_array_equal(next(video.frames(skip=3)).image, found[3].image)


def test_grey_is_repeated_in_all_channels(tmp_path):
    grey = noise_frames(2)[1][..., 0]
    (found,) = open_video(write_video(tmp_path / "a.mkv", [grey], codec="ffv1", pixels="gray"))
    np.testing.assert_array_equal(found.image, np.stack([grey] * 3))


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        (UPRIGHT, lambda frame: frame),
        (CLOCKWISE, lambda frame: np.rot90(frame, -1)),
        (HALF_TURN, lambda frame: np.rot90(frame, 2)),
        (COUNTERCLOCKWISE, lambda frame: np.rot90(frame, 1)),
        (MIRRORED, lambda frame: frame[:, ::-1]),
    ],
)
def test_frames_are_rotated_as_players_show_them(tmp_path, matrix, expected):
    file = write_video(tmp_path / "a.mp4", noise_frames(2))
    stored = images_of(open_video(file))
    rotate(file, matrix)
    video = open_video(file)
    assert video.size == expected(stored[0]).shape[:2]
    for found, frame in zip(images_of(video), stored, strict=True):
        np.testing.assert_array_equal(found, expected(frame))


def test_colours_of_both_standards_are_converted(tmp_path):
    """Flat colours survive H.264 up to rounding, in whichever matrix they are stored."""
    import av

    color = np.full((48, 64, 3), (200, 40, 30), dtype=np.uint8)
    for standard, number in (("ITU601", 6), ("ITU709", 1)):
        with av.open(str(tmp_path / "a.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            stream.codec_context.colorspace = number
            frame = av.VideoFrame.from_ndarray(color, format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace=standard)))
            container.mux(stream.encode())
        (found,) = images_of(open_video(tmp_path / "a.mp4"))
        assert np.abs(found.astype(int) - color).max() <= 4


def test_a_variable_frame_rate_gives_the_times_in_the_file(tmp_path):
    times = [0, 40, 50, 400, 1000]
    file = write_video(
        tmp_path / "a.mp4", noise_frames(5), times=[100 + time for time in times], unit=Fraction(1, 1000)
    )
    assert [frame.time for frame in open_video(file)] == pytest.approx([time / 1000 for time in times], abs=1e-9)


@pytest.mark.parametrize(
    ("rate", "numbers"),
    [
        (10, [0, 3, 5, 8, 10]),  # the first frames from 0, 0.1, 0.2, 0.3 and 0.4 s on, of 25 per second
        (25, list(range(12))),
        (60, list(range(12))),
        (2, [0]),
    ],
)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])  # Matroska rounds times to milliseconds
def test_frames_per_second(tmp_path, rate, numbers, suffix):
    file = write_video(tmp_path / f"a{suffix}", noise_frames(12))
    video = open_video(file, frames_per_second=rate)
    assert [frame.number for frame in video] == numbers
    assert [frame.number for frame in video.frames(skip=2)] == numbers[2:]
    assert video.num_frames == len(numbers)


def test_thirty_frames_per_second_in_milliseconds_are_all_used(tmp_path):
    times = [round(number * 1000 / 30) for number in range(30)]
    file = write_video(tmp_path / "a.mkv", noise_frames(30, height=16, width=16), times=times, unit=Fraction(1, 1000))
    assert len(list(open_video(file, frames_per_second=30))) == 30


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"movflags": "faststart"}),
        ("a.avi", "mpeg4", {}),
        ("a.mkv", "libx264", {}),
        ("a.webm", "libvpx-vp9", {}),
    ],
)
def test_a_truncated_video_gives_the_frames_before_the_damage(tmp_path, name, codec, options):
    file = write_video(tmp_path / name, noise_frames(50), codec=codec, options=options)
    complete = images_of(open_video(file))
    cut(file, 0.6)
    found = []
    with pytest.raises(InputError, match=rf"{name}: damaged or truncated after (\d+) frames") as error:
        for frame in open_video(file):
            found.append(frame)
    assert f"after {len(found)} frames" in str(error.value)
    assert 20 < len(found) < 40
    for frame in found[:20]:
        np.testing.assert_array_equal(frame.image.permute(1, 2, 0).numpy(), complete[frame.number])


def test_other_files_are_rejected(tmp_path):
    (tmp_path / "text.mp4").write_text("hello")
    with pytest.raises(InputError, match=r"text\.mp4: not a video, or its header is damaged"):
        open_video(tmp_path / "text.mp4")
    with pytest.raises(InputError, match=r"gone\.mp4: No such file or directory"):
        open_video(tmp_path / "gone.mp4")
    file = write_video(tmp_path / "a.mp4", noise_frames(3))
    cut(file, 0.5)  # its index is at the end
    with pytest.raises(InputError, match=r"a\.mp4: not a video, or its header is damaged"):
        open_video(file)


def test_a_playlist_cannot_name_other_files(tmp_path):
    write_video(tmp_path / "a.mp4", noise_frames(3))
    (tmp_path / "b.mp4").write_text(f"ffconcat version 1.0\nfile '{tmp_path}/a.mp4'\n")
    with pytest.raises(InputError, match=r"b\.mp4: not a video"):
        open_video(tmp_path / "b.mp4")


def test_frames_with_too_many_pixels_are_rejected(tmp_path):
    file = write_video(tmp_path / "a.mp4", noise_frames(1))
    assert open_video(file, max_pixels=48 * 64).size == (48, 64)
    with pytest.raises(InputError, match=r"frames have 3072 pixels \(64 x 48\), expected at most 3071"):
        open_video(file, max_pixels=48 * 64 - 1)


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
def test_invalid_frames_per_second(tmp_path, rate):
    with pytest.raises(InputError, match="expected a number above 0"):
        open_video(tmp_path / "a.mp4", frames_per_second=rate)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'pip install "retinanet\[video\]"'):
        open_video(tmp_path / "a.mp4")


def test_files_are_closed(tmp_path):
    file = write_video(tmp_path / "a.mp4", noise_frames(10))
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(3):
        frames = open_video(file).frames()
        next(frames)
        frames.close()
    assert before == (len(os.listdir("/proc/self/fd")) if before else 0)

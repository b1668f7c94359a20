"""Predict on videos batch by batch of frames, and write videos with the detections drawn on them."""

import itertools
import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import torch
from torch import Tensor

from retinanet.errors import InputError
from retinanet.formats.videos.reader import Video, VideoFrame, open_video
from retinanet.inference.predictor import Predictor
from retinanet.prediction.journal import Entry, Journal, crops_in, stamp_of
from retinanet.prediction.outputs import OutputFolder, drawn_video_name, frame_stem, label_name
from retinanet.prediction.plan import InputFile, Plan
from retinanet.prediction.writers.images import write_crops
from retinanet.prediction.writers.video import NotDrawn, write_video
from retinanet.runtime.console import progress
from retinanet.structures import Detections
from retinanet.visualization.draw import draw_detections

log = logging.getLogger(__name__)


class VideoRun:
    """Predicts on the videos of a plan whose output folder and journal are ready.

    The drawn video is written from the recorded detections after the last frame: a video cannot be continued after the
    process was killed, and decoding and drawing take little time compared with the detector.

    Args:
        min_score: score from which detections are in the results.
    """

    def __init__(self, plan: Plan, predictor: Predictor, min_score: float, journal: Journal, folder: OutputFolder):
        self._plan = plan
        self._predictor = predictor
        self._min_score = min_score
        self._journal = journal
        self._folder = folder

    def run(self, file: InputFile, batch_size: int) -> int:
        """Detect the objects in the frames without a result, and draw the video.

        If the video is damaged, the frames before the damage have results, and the damage is recorded as the error of
        the video. The next run tries to read the frames after them. If the video cannot be drawn, that is recorded in
        the same way.

        Returns: the number of frames whose results an earlier call had written.

        Raises:
            InputError: a file cannot be written.
        """
        stamp = stamp_of([file.path])  # before reading, so that a change while the video is read is noticed later
        entry = self._recorded(file, stamp)
        reused = 0 if entry is None else entry.num_frames
        if entry is None:
            self._remove_earlier(file)
        is_done = entry is not None and entry.ended and not entry.failed
        if is_done and self._is_drawn(file):
            return reused
        try:
            video = self._opened(file)
        except InputError as error:
            self._record(file, stamp, reused, [], size=None, error=error)
            return reused
        if not is_done:
            if reused:
                log.info("continuing: the results of %d frames of %s exist", reused, file.name)
            self._detect(file, stamp, video, reused, batch_size)
        if not self._is_drawn(file):
            self._draw(file, stamp, video)
        return reused

    def _remove_earlier(self, file: InputFile) -> None:
        """Remove the drawn video, crops and label files of a file that has changed since."""
        names, crops = [drawn_video_name(file.stem)], []
        for part in self._journal.parts(file.path):
            names += [label_name(frame_stem(file.stem, frame["frame"])) for frame in part.get("frames", ())]
            crops += crops_in([part])
        for name in [name for name in names if name in self._journal.names] + crops:
            self._folder.remove(name)

    def _is_drawn(self, file: InputFile) -> bool:
        return not self._plan.outputs.draw or self._folder.has(drawn_video_name(file.stem))

    def _recorded(self, file: InputFile, stamp: list[int] | None) -> Entry | None:
        """The recorded results of a video; None if there are none, or its file has changed since."""
        entry = self._journal.entry(file.path)
        return entry if entry is not None and (entry.name, entry.stamp) == (file.name, stamp) else None

    def _opened(self, file: InputFile) -> Video:
        cfg = self._predictor.cfg
        if cfg.model.in_channels not in (1, 3) or cfg.data.bands is not None or cfg.data.band_files is not None:
            raise InputError(
                f"{file.file}: is a video, whose frames are RGB, but the checkpoint expects other images "
                "(model.in_channels, data.bands or data.band_files); convert its frames to such images"
            )
        return open_video(file.file, frames_per_second=self._plan.frames_per_second, max_pixels=cfg.data.max_pixels)

    def _detect(self, file: InputFile, stamp: list[int] | None, video: Video, start: int, batch_size: int) -> None:
        """Detect the objects in the frames from `start` on, and record them batch by batch."""
        frames = video.frames(skip=start)
        description, total = f"predicting {file.name}", video.num_frames
        with closing(frames), closing(progress(None, description, total, initial=start, unit="frames")) as bar:
            while True:
                # A continued prediction has the same batches as an uninterrupted one.
                size = batch_size - start % batch_size
                batch, error = _next_frames(frames, size)
                if batch and self._plan.outputs.draw:
                    self._folder.remove(drawn_video_name(file.stem))  # lacks these frames
                found = self._detected(file, batch)
                ended = len(batch) < size
                self._record(file, stamp, start, found, size=video.size, ended=ended, error=error)
                start += len(batch)
                for _ in batch:
                    bar.update()
                if ended:
                    return

    def _detected(self, file: InputFile, batch: list[VideoFrame]) -> list[dict[str, Any]]:
        """Detect the objects in a batch of frames, write their crops, and return the results."""
        outputs, results = self._plan.outputs, []
        for frame, detections in zip(batch, self._predictor.predict(batch, batch_size=len(batch) or 1), strict=True):
            detections = detections[detections.scores >= self._min_score]
            result = {
                "frame": frame.number,
                "time": frame.time,
                "boxes": detections.boxes.tolist(),
                "scores": detections.scores.tolist(),
                "labels": detections.labels.tolist(),
            }
            if outputs.crops:
                stem = frame_stem(file.stem, frame.number)
                result["crops"] = write_crops(self._folder, stem, frame.image, detections, outputs)
            results.append(result)
        return results

    def _record(
        self,
        file: InputFile,
        stamp: list[int] | None,
        start: int,
        frames: list[dict[str, Any]],
        *,
        size: tuple[int, int] | None,
        ended: bool = True,
        error: InputError | None = None,
    ) -> None:
        record = {
            "path": file.path,
            "name": file.name,
            "stamp": stamp,
            "size": size,
            "start": start,
            "frames": frames,
            "ended": ended,
        }
        self._journal.append([record if error is None else {**record, "error": str(error)}])

    def _draw(self, file: InputFile, stamp: list[int] | None, video: Video) -> None:
        """Write the video with the recorded detections drawn on it, or record why it cannot be drawn."""
        entry = self._journal.entry(file.path)
        if entry is None or entry.num_frames == 0:
            return
        frames = video.frames()
        try:
            with (
                closing(frames),
                closing(progress(None, f"drawing {file.name}", entry.num_frames, unit="frames")) as bar,
                self._folder.replacing(drawn_video_name(file.stem)) as output,
            ):
                used = itertools.islice(frames, entry.num_frames)
                write_video(output, video, self._drawn(file, used, bar.update))
        except NotDrawn as error:
            self._record(file, stamp, entry.num_frames, [], size=None, error=error)

    def _drawn(
        self, file: InputFile, frames: Iterator[VideoFrame], finished: Callable[[], object]
    ) -> Iterator[tuple[float, Tensor]]:
        """Yield the time of each frame, and the frame with its recorded detections drawn on it."""
        recorded = (result for part in self._journal.parts(file.path) for result in part["frames"])
        for frame, result in zip(frames, recorded, strict=True):
            detections = Detections(
                boxes=torch.tensor(result["boxes"]).reshape(-1, 4),
                scores=torch.tensor(result["scores"]),
                labels=torch.tensor(result["labels"], dtype=torch.int64),
                class_names=self._predictor.class_names,
            )
            yield frame.time, draw_detections(frame.image, detections, min_score=0, labels=self._plan.outputs.labels)
            finished()


def _next_frames(frames: Iterator[VideoFrame], number: int) -> tuple[list[VideoFrame], InputError | None]:
    """Take the next frames: fewer at the end of the video, or before damage, whose error is returned as well."""
    batch: list[VideoFrame] = []
    try:
        batch.extend(itertools.islice(frames, number))
    except InputError as error:
        return batch, error
    return batch, None

"""Run a prediction batch by batch, and record each result before the next."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from typing import Any, NamedTuple

from retinanet.errors import InputError
from retinanet.formats.image_paths.band_files import band_paths
from retinanet.formats.images.windows import DecodedImage, WindowSource
from retinanet.inference.predictor import Predictor
from retinanet.prediction.journal import Journal, crops_in, stamp_of
from retinanet.prediction.outputs import COCO_FILE, COUNTS_FILE, TABLE_FILE, OutputFolder, label_name
from retinanet.prediction.plan import Plan
from retinanet.prediction.results import Failure, Results
from retinanet.prediction.videos import VideoRun
from retinanet.prediction.writers.coco import write_coco
from retinanet.prediction.writers.images import write_crops, write_drawn
from retinanet.prediction.writers.tables import write_counts, write_detections
from retinanet.prediction.writers.yolo import write_yolo
from retinanet.runtime.console import counted, counted_progress, progress
from retinanet.structures import Detections

log = logging.getLogger(__name__)


class Prediction(NamedTuple):
    """Summary of the results in an output folder."""

    num_images: int  # without those that could not be read
    num_objects: int
    num_reused: int  # images and frames whose results an earlier call had written
    failures: list[Failure]  # images and videos that could not be read completely
    num_videos: int  # including those that could be read in part
    num_frames: int  # of the videos
    thresholds: dict[str, float]  # by class name, the score from which objects are in the results


class PredictionInterrupted(KeyboardInterrupt):
    """Ctrl-C during a prediction; the results so far have been written, and the same call continues.

    Args:
        num_frames: number of frames of videos that have a result; None if there are no videos.
    """

    def __init__(self, num_done: int, num_images: int, num_frames: int | None = None):
        done = [f"{num_done} of {counted(num_images, 'image')}"] if num_images else []
        done += [] if num_frames is None else [counted(num_frames, "frame")]
        super().__init__(f"interrupted after {' and '.join(done)}")
        self.num_done = num_done
        self.num_images = num_images
        self.num_frames = num_frames


class Run:
    """A prediction whose output folder and journal are ready.

    Args:
        plan: the images and videos, and the names of their output files.
        predictor: the detector, which has already applied any thresholds of classes.
        thresholds: score from which detections are in the results, by label.
    """

    def __init__(
        self,
        plan: Plan,
        predictor: Predictor,
        thresholds: tuple[float, ...],
        journal: Journal,
        folder: OutputFolder,
    ):
        self._plan = plan
        self._predictor = predictor
        self._journal = journal
        self._folder = folder
        self._results = Results(
            journal,
            plan.images,
            videos=plan.videos,
            class_names=predictor.class_names,
            category_ids=predictor.category_ids,
            thresholds=thresholds,
        )
        self._min_score = 0.0 if predictor.thresholds is not None else thresholds[0]
        self._videos = VideoRun(plan, predictor, self._min_score, journal, folder)

    def run(self, batch_size: int) -> Prediction:
        """Predict on the images and frames without a result, and write the files that combine all results.

        Raises:
            InputError: a file cannot be written.
            PredictionInterrupted: on Ctrl-C.
        """
        num_images = len(self._plan.images)
        pending = [position for position in range(num_images) if not self._is_done(position)]
        pending.sort(key=self._has_failed)  # try these last, so that a call that is interrupted early makes progress
        reused = num_images - len(pending)
        if reused:
            log.info("continuing: the results of %d of %d images exist", reused, num_images)
        reused_frames = 0
        try:
            if num_images:
                with closing(progress(None, "predicting", num_images, initial=reused, unit="images")) as bar:
                    for batch in _batches(pending, batch_size):
                        self._predict(batch, batch_size)
                        for _ in batch:
                            bar.update()
            for video in self._plan.videos:
                reused_frames += self._videos.run(video, batch_size)
            self._write_results()
        except KeyboardInterrupt as stop:
            self._write_results()
            done = sum(map(self._is_done, range(num_images)))
            num_frames = self._results.num_frames if self._results.has_videos else None
            raise PredictionInterrupted(done, num_images, num_frames) from stop
        except BaseException:
            with suppress(InputError):  # such as a full disk, which is being reported
                self._write_results()
            raise
        videos = list(self._results.videos())
        return Prediction(
            num_images=num_images - sum(map(self._has_failed, range(num_images))),
            num_objects=sum(len(image.scores) for image in self._results),
            num_reused=reused + reused_frames,
            failures=self._results.failures(),
            num_videos=len(videos),
            num_frames=self._results.num_frames,
            thresholds=dict(zip(self._results.class_names, self._results.thresholds, strict=True)),
        )

    def _is_done(self, position: int) -> bool:
        """Whether the result of an image is recorded, its file has not changed since, and it has been drawn."""
        image = self._plan.images[position]
        entry = self._journal.entry(image.path)
        if entry is None or entry.failed or (entry.name, entry.stamp) != (image.name, self._stamp(image.path)):
            return False
        outputs = self._plan.outputs
        return not outputs.draw or self._folder.has(outputs.drawn_name(image.stem))

    def _stamp(self, path: str) -> list[int] | None:
        """Stamp of the files of an image; None if one is missing or no name matches the patterns."""
        band_files = self._predictor.cfg.data.band_files
        try:
            return stamp_of([path] if band_files is None else band_paths(path, band_files))
        except InputError:
            return None

    def _has_failed(self, position: int) -> bool:
        entry = self._journal.entry(self._plan.images[position].path)
        return entry is not None and entry.failed

    def _predict(self, batch: list[int], batch_size: int) -> None:
        """Detect the objects in a batch of images, write the images, and record the results."""
        records: dict[int, dict[str, Any]] = {}
        decoded: dict[int, DecodedImage] = {}
        for position in batch:
            image = self._plan.images[position]
            for name in crops_in(self._journal.parts(image.path)):  # of the file before it changed
                self._folder.remove(name)
            records[position] = {"path": image.path, "name": image.name, "stamp": self._stamp(image.path)}
            with ExitStack() as opened:
                try:
                    source = opened.enter_context(self._predictor.open_windows(image.file))
                    if isinstance(source, DecodedImage):
                        decoded[position] = source
                        continue
                    finished = opened.enter_context(counted_progress(f"detecting in {image.name}"))
                    detections = self._predictor.detect_in(source, batch_size=batch_size, progress=finished)
                except InputError as error:
                    records[position]["error"] = str(error)
                    continue
                record = records.pop(position) | self._written(image.stem, source, detections)
                self._journal.append([record])  # not with the batch, which may take much longer
        pixels = [source.pixels for source in decoded.values()]
        found = self._predictor.predict(pixels, batch_size=batch_size)
        for position, detections in zip(decoded, found, strict=True):
            records[position] |= self._written(self._plan.images[position].stem, decoded[position], detections)
        self._journal.append(records.values())

    def _written(self, stem: str, image: WindowSource, detections: Detections) -> dict[str, Any]:
        """Write the files of an image, and return its result."""
        detections = detections[detections.scores >= self._min_score]
        outputs = self._plan.outputs
        if outputs.draw:
            write_drawn(self._folder, stem, image, detections, outputs)
        crops = {"crops": write_crops(self._folder, stem, image, detections, outputs)} if outputs.crops else {}
        return {
            "size": list(image.size),
            "boxes": detections.boxes.tolist(),
            "scores": detections.scores.tolist(),
            "labels": detections.labels.tolist(),
            **crops,
        }

    def _write_results(self) -> None:
        """Write the files that combine the results of all images and frames."""
        for name, write in ((COCO_FILE, write_coco), (TABLE_FILE, write_detections), (COUNTS_FILE, write_counts)):
            with self._folder.replacing(name) as file:
                write(self._results, file)
        if self._plan.outputs.yolo:
            self._journal.claim(label_name(image.stem) for image in self._results if image.frame is not None)
            write_yolo(self._results, self._folder)


def _batches(pending: list[int], batch_size: int) -> Iterator[list[int]]:
    """Group positions so that a continued prediction has the same batches as an uninterrupted one."""
    batch: list[int] = []
    for position in pending:
        if batch and position // batch_size != batch[0] // batch_size:
            yield batch
            batch = []
        batch.append(position)
    if batch:
        yield batch

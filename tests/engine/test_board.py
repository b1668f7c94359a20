"""The TensorBoard events of a run, read back from their files."""

import io
import json
import time

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.util import tensor_util

from retinanet.config.load import load_config
from retinanet.data.reader import SampleReader
from retinanet.data.transforms.sample import Sample
from retinanet.engine.board import GAP, MAX_CLASSES, MAX_SIDE, Board
from retinanet.formats.images.settings import ImageSettings
from retinanet.structures import Detections
from retinanet.visualization.draw import class_color
from tests.helpers.datasets import dataset_of, image_record


def events_in(folder) -> EventAccumulator:
    board = EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0, "tensors": 0})
    board.Reload()
    return board


def image_of(board: EventAccumulator, tag: str) -> np.ndarray:
    (event,) = board.Images(tag)
    return np.asarray(Image.open(io.BytesIO(event.encoded_image_string)).convert("RGB"))


def test_every_metric_is_shown_once_after_a_resume(tmp_path):
    board = Board(tmp_path)
    for step in (1, 2, 3):
        board.scalars("train", step, {"loss": float(step)})
    board.close()
    # TensorBoard reads files in order of their names, which contain the time in seconds and then a counter without
    # leading zeros: 10 sorts before 9. Wait for the next second, so that the order does not depend on the counter.
    second = int(time.time())
    while int(time.time()) == second:
        time.sleep(0.05)
    board = Board(tmp_path, resumed_at=2)
    board.scalars("train", 3, {"loss": 30.0})
    board.close()
    scalars = events_in(tmp_path).Scalars("train/loss")
    assert [(event.step, event.value) for event in scalars] == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_config_is_in_the_table_of_runs(tmp_path):
    cfg = load_config("quickstart", ["train.seed=7", "train.early_stop=null"])
    board = Board(tmp_path)
    board.config(cfg)
    board.close()
    plugin = events_in(tmp_path).summary_metadata
    session = HParamsPluginData.FromString(plugin[metadata.SESSION_START_INFO_TAG].plugin_data.content)
    values = session.session_start_info.hparams
    assert values["train.seed"].number_value == 7
    assert values["model.backbone.name"].string_value == "resnet10_half"
    assert json.loads(values["data.resize.shorter"].string_value) == [128]
    assert values["train.early_stop"].string_value == "null"
    experiment = HParamsPluginData.FromString(plugin[metadata.EXPERIMENT_TAG].plugin_data.content).experiment
    assert [info.name.tag for info in experiment.metric_infos] == ["eval/AP", "eval/AP50", "eval/loss"]


@pytest.fixture
def reader(tmp_path):
    """Five grey images of 1000 x 500 pixels, of which the first has no objects."""
    records = []
    for number in range(5):
        file = tmp_path / f"{number}.png"
        Image.new("RGB", (1000, 500), (128, 128, 128)).save(file)
        boxes = [] if number == 0 else [(100, 100, 300, 400)]
        records.append(image_record(file, 500, 1000, boxes, image_id=number + 1))
    data = dataset_of(records, class_names=("cat", "dog"))
    return SampleReader(data, [], seed=0, settings=ImageSettings(max_pixels=10**6))


def test_ground_truth_is_shown_next_to_detections(tmp_path, reader):
    none = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    found = Detections(torch.tensor([[600.0, 100.0, 900.0, 400.0]]), torch.tensor([0.9]), torch.tensor([1]))
    board = Board(tmp_path)
    board.validation_images(3, {0: none, 1: found, 2: none, 3: none, 4: none}, reader)
    board.close()
    events = events_in(tmp_path)
    assert events.Tags()["images"] == [f"validation/{number}" for number in range(4)]  # those with objects
    drawn = image_of(events, "validation/0")
    assert drawn.shape == (MAX_SIDE // 2, 2 * MAX_SIDE + GAP, 3)
    truth, detections = drawn[:, :MAX_SIDE], drawn[:, MAX_SIDE + GAP :]
    cat, dog = ((side == class_color(label, 2)).all(-1) for side, label in ((truth, 0), (detections, 1)))
    # Resized by 0.48: (100, 100, 300, 400) becomes (48, 48, 144, 192), and x of the detection 288 to 432.
    rows, columns = np.nonzero(cat)
    assert (columns.min(), columns.max()) == pytest.approx((48, 144), abs=2)
    assert rows.max() == pytest.approx(192, abs=2)
    columns = np.nonzero(dog)[1]
    assert (columns.min(), columns.max()) == pytest.approx((288, 432), abs=2)
    assert not (truth == class_color(1, 2)).all(-1).any()


def test_training_images_are_drawn_with_boxes_and_bounded_in_size(tmp_path):
    sample = Sample(
        image=torch.zeros(3, 2000, 1000, dtype=torch.uint8),
        boxes=torch.tensor([[200.0, 400.0, 800.0, 1600.0]]),
        labels=torch.tensor([0]),
        is_crowd=torch.tensor([True]),
    )
    board = Board(tmp_path)
    board.training_images([sample, sample], ("cat",))
    board.close()
    events = events_in(tmp_path)
    assert events.Tags()["images"] == ["training/0", "training/1"]
    drawn = image_of(events, "training/1")
    assert drawn.shape == (MAX_SIDE, MAX_SIDE // 2, 3)
    rows = np.nonzero((drawn == class_color(0, 1)).all(-1))[0]
    assert rows.max() == pytest.approx(0.24 * 1600, abs=2)


def test_precision_recall_curve_counts_detections_above_each_score(tmp_path):
    data = dataset_of(
        [image_record(boxes=[(0, 0, 20, 20), (30, 0, 50, 20)], labels=[0, 0])], class_names=("cat", "dog")
    )
    boxes = torch.tensor([[0.0, 0, 20, 20], [0, 30, 20, 45], [30, 0, 50, 20]])
    found = Detections(boxes, torch.tensor([0.9, 0.5, 0.25]), torch.tensor([0, 0, 0]))
    board = Board(tmp_path)
    board.precision_recall(7, data, {0: found})
    board.close()
    events = events_in(tmp_path)
    assert events.Tags()["tensors"] == ["precision_recall/cat"]  # there is no dog to find
    (event,) = events.Tensors("precision_recall/cat")
    true, false, _, missed, precision, recall = tensor_util.make_ndarray(event.tensor_proto)
    # Thresholds 0, 0.01, ..., 1: the scores are reached up to 0.25, 0.5 and 0.9.
    for place, expected in {
        0: (2, 1, 0),
        25: (2, 1, 0),
        26: (1, 1, 1),
        50: (1, 1, 1),
        51: (1, 0, 1),
        91: (0, 0, 2),
    }.items():
        assert (true[place], false[place], missed[place]) == expected, place
    assert (precision[0], recall[0]) == pytest.approx((2 / 3, 1)) and (precision[100], recall[100]) == (1, 0)


def test_number_of_curves_is_bounded(tmp_path):
    names = tuple(f"class{label}" for label in range(30))
    boxes = [(label, 0, label + 10, 10) for label in range(30)]
    board = Board(tmp_path)
    board.precision_recall(1, dataset_of([image_record(boxes=boxes, labels=range(30))], class_names=names), {})
    board.close()
    assert len(events_in(tmp_path).Tags()["tensors"]) == MAX_CLASSES

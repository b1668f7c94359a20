import copy
import pickle
import sys

import numpy as np
import pytest
import torch

from retinanet.structures import Detections

BOXES = torch.tensor([[10.0, 20.0, 50.0, 60.0], [0.0, 0.0, 5.0, 8.0], [1.0, 2.0, 3.0, 5.0]])


def detections(class_names=("cat", "dog")):
    return Detections(BOXES, torch.tensor([0.9, 0.6, 0.2]), torch.tensor([1, 0, 1]), class_names)


def empty():
    return Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))


def test_length_is_the_number_of_objects():
    assert len(detections()) == 3 and detections()
    assert len(empty()) == 0 and not empty()
    assert len(empty()[empty().scores > 0.5]) == 0


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (0, [0]),
        (-1, [2]),
        (slice(0, 2), [0, 1]),
        (slice(None, None, 2), [0, 2]),
        (torch.tensor([True, False, True]), [0, 2]),
        (torch.tensor([2, 0]), [2, 0]),
        ([2, 0], [2, 0]),
        ([], []),
        (torch.tensor(1), [1]),
        (np.int64(2), [2]),
        ([False, False, True], [2]),
        (np.array([False, True, False]), [1]),
    ],
)
def test_indexing_returns_detections_of_those_objects(index, rows):
    part = detections()[index]
    assert isinstance(part, Detections) and part.class_names == ("cat", "dog")
    assert torch.equal(part.boxes, BOXES[rows])
    assert part.scores.tolist() == detections().scores[rows].tolist()
    assert part.labels.tolist() == detections().labels[rows].tolist()


def test_index_out_of_range_is_an_index_error():
    for index in (3, -4):
        with pytest.raises(IndexError, match="out of range for 3 detections"):
            detections()[index]


def test_float_index_is_an_index_error():
    with pytest.raises(IndexError, match=r"found an index of type torch\.float32"):
        detections()[(detections().scores > 0.5).float()]


def test_iteration_yields_one_object_at_a_time():
    assert [(len(one), one.labels.item()) for one in detections()] == [(1, 1), (1, 0), (1, 1)]
    assert list(empty()) == []


def test_repr_names_the_objects():
    assert repr(detections()[:1]) == "Detections(1 object)\n  dog 0.90 [10.0, 20.0, 50.0, 60.0]"
    assert repr(empty()) == "Detections(0 objects)"
    many = detections(class_names=None)[torch.tensor([0, 1, 2] * 3)]
    assert repr(many).splitlines()[1] == "  class 1 0.90 [10.0, 20.0, 50.0, 60.0]"
    assert repr(many).endswith("  ... 4 more")


def test_to_coco_by_hand():
    result = detections()[1:2].to_coco(42, category_ids=(7, 13))
    score = torch.tensor(0.6).item()
    assert result == [
        {"image_id": 42, "category_id": 7, "bbox": [0.0, 0.0, 5.0, 8.0], "score": score, "category_name": "cat"}
    ]
    assert [entry["category_id"] for entry in detections(None).to_coco(1)] == [2, 1, 2]
    assert "category_name" not in detections(None).to_coco(1)[0]


def test_fields_of_different_lengths_are_rejected():
    with pytest.raises(ValueError, match=r"expected \(D, 4\), \(D,\) and \(D,\)"):
        Detections(BOXES, torch.zeros(2), torch.zeros(3, dtype=torch.int64))


def test_detections_can_be_pickled_and_copied():
    for twin in (pickle.loads(pickle.dumps(detections())), copy.deepcopy(detections())):
        assert torch.equal(twin.boxes, BOXES) and twin.class_names == ("cat", "dog")


def test_to_pandas_by_hand():
    pandas = pytest.importorskip("pandas")
    boxes = torch.tensor([[1.0, 2.0, 3.5, 4.0], [0.0, 0.0, 1.0, 1.0]])
    found = Detections(boxes, torch.tensor([0.75, 0.5]), torch.tensor([1, 0]), ("cat", "Größe"))
    columns = {"xmin": [1.0, 0.0], "ymin": [2.0, 0.0], "xmax": [3.5, 1.0], "ymax": [4.0, 1.0]}
    expected = pandas.DataFrame({**columns, "label": ["Größe", "cat"], "score": [0.75, 0.5]})
    pandas.testing.assert_frame_equal(found.to_pandas(), expected, check_dtype=False)
    unnamed = Detections(found.boxes, found.scores, found.labels).to_pandas()
    assert unnamed["label"].tolist() == [1, 0]
    assert found[:0].to_pandas().columns.tolist() == [*columns, "label", "score"]


def test_to_supervision_by_hand():
    supervision = pytest.importorskip("supervision", reason="supervision is optional")
    found = detections(("cat", "Größe")).to_supervision()
    assert isinstance(found, supervision.Detections) and len(found) == 3
    assert found.xyxy.tolist() == [[10, 20, 50, 60], [0, 0, 5, 8], [1, 2, 3, 5]]
    assert found.confidence.tolist() == torch.tensor([0.9, 0.6, 0.2]).tolist()
    assert found.class_id.tolist() == [1, 0, 1]
    assert found.data["class_name"].tolist() == ["Größe", "cat", "Größe"]
    assert found[found.confidence > 0.5].data["class_name"].tolist() == ["Größe", "cat"]
    assert detections(None).to_supervision().data == {}


def test_to_supervision_without_objects():
    supervision = pytest.importorskip("supervision", reason="supervision is optional")
    nothing = detections()[:0].to_supervision()
    assert nothing.is_empty() and nothing.xyxy.shape == (0, 4) and nothing.data["class_name"].shape == (0,)
    merged = supervision.Detections.merge([nothing, detections().to_supervision()])
    assert merged.data["class_name"].tolist() == ["dog", "cat", "dog"]


def test_to_supervision_copies_the_arrays():
    pytest.importorskip("supervision", reason="supervision is optional")
    ours = detections()
    ours.to_supervision().xyxy[:] = -1
    assert torch.equal(ours.boxes, BOXES)


def test_missing_supervision_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)  # importing it raises ModuleNotFoundError
    with pytest.raises(ImportError, match="to_supervision needs the package supervision: pip install supervision"):
        detections().to_supervision()

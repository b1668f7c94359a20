from pycocotools.coco import COCO

from retinanet.benchmarks.annotation_index import CACHED, OURS, THEIRS, call_in_process, write_document
from retinanet.config import DataSource
from retinanet.formats.coco.stream import read_stream


def test_written_document_is_valid_and_accepted_by_the_streaming_reader(tmp_path, capsys):
    write_document(tmp_path / "a.json", num_images=20, num_boxes=300)
    read = read_stream(DataSource(annotations=str(tmp_path / "a.json"), images="."))
    reference = COCO(str(tmp_path / "a.json"))
    assert len(read) == len(reference.imgs) == 20
    assert read.boxes_xywh.tolist() == [annotation["bbox"] for annotation in reference.anns.values()]
    assert 0 < read.is_crowd.sum() < 20


def test_every_variant_reads_the_same_number_in_its_own_process(tmp_path):
    write_document(tmp_path / "a.json", num_images=20, num_boxes=300)
    for name in (OURS, CACHED, THEIRS):
        seconds, peak_bytes, count = call_in_process(name, tmp_path / "a.json", tmp_path / "cache")
        assert count == 300 and seconds > 0
        assert 10 * 2**20 < peak_bytes < 2**30  # only of the child; the test process has imported torch

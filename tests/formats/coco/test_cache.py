"""Cached results equal those of the reader and are never stale, and cache failures are harmless."""

import dataclasses
import json
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from retinanet.formats.annotations import Annotations
from retinanet.formats.coco import cache as index_cache
from retinanet.formats.coco import reader
from tests.helpers.coco_files import box, document, image

CONTENT = document([image(1), image(2), image(3)], [box(5, 2, [1, 2, 3, 4]), box(6, 1, [0, 0, 5, 5], 7, area=9.5)])


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache that accepts files of any size."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(index_cache, "MIN_BYTES", 0)
    return tmp_path / "cache" / "retinanet" / "annotations"


@pytest.fixture
def reads(monkeypatch):
    """A list that grows by one when a file is read instead of the cache."""
    count = []
    stream = reader.read_stream
    monkeypatch.setattr(reader, "read_stream", lambda source: count.append(source.annotations) or stream(source))
    return count


def same(first: Annotations, second: Annotations) -> bool:
    pairs = [(getattr(first, field.name), getattr(second, field.name)) for field in dataclasses.fields(Annotations)]
    return all(
        np.array_equal(one, other, equal_nan=one.dtype.kind == "f") and one.dtype == other.dtype
        if isinstance(one, np.ndarray)
        else one == other
        for one, other in pairs
    )


@pytest.mark.parametrize("text_ids", [False, True])
def test_second_read_is_mapped_and_equal(source, cache, reads, text_ids):
    content = json.loads(json.dumps(CONTENT))
    if text_ids:
        for entry in content["images"]:
            entry["id"] = f"image {entry['id']}"
        for entry in content["annotations"]:
            entry["image_id"] = f"image {entry['image_id']}"
    some = source(content)
    first, second = reader.read_coco(some), reader.read_coco(some)
    assert len(reads) == 1
    assert same(first, second)
    assert isinstance(second.boxes_xywh, np.memmap) and not second.boxes_xywh.flags.writeable


def test_changed_file_is_read_again_and_its_old_entry_deleted(source, cache, reads):
    some = source(CONTENT)
    reader.read_coco(some)
    changed = json.loads(json.dumps(CONTENT))
    changed["annotations"][0]["bbox"] = [1, 2, 3, 5]  # the same number of bytes
    with open(some.annotations, "w") as file:
        json.dump(changed, file)
    os.utime(some.annotations, ns=(1, 1))
    assert reader.read_coco(some).boxes_xywh[0].tolist() == [1, 2, 3, 5]
    assert len(reads) == 2 and len(list(cache.iterdir())) == 1


def test_file_is_read_again_by_another_reader_version(source, cache, reads, monkeypatch):
    some = source(CONTENT)
    reader.read_coco(some)
    monkeypatch.setattr(index_cache, "READER_VERSION", index_cache.READER_VERSION + 1)
    reader.read_coco(some)
    assert len(reads) == 2


def test_two_paths_of_a_file_share_an_entry_and_keep_their_names(source, cache, reads):
    some = source(CONTENT)
    reader.read_coco(some)
    link = some.annotations + ".link.json"
    os.symlink(some.annotations, link)
    again = reader.read_coco(some.model_copy(update={"annotations": link, "images": "elsewhere"}))
    assert len(reads) == 1
    assert (again.source, again.image_folder) == (link, "elsewhere")


@pytest.mark.parametrize("name", ["facts.json", "boxes_xywh.npy", "file_names.txt", "sizes.npy"])
@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-9], lambda data: b"\xff" * len(data), None])
def test_damaged_entry_is_read_again(source, cache, reads, name, damage):
    some = source(CONTENT)
    first = reader.read_coco(some)
    file = next(cache.iterdir()) / name
    file.unlink() if damage is None else file.write_bytes(damage(file.read_bytes()))
    assert same(first, reader.read_coco(some))
    assert len(reads) == 2


def test_small_files_are_not_cached(source, cache, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parents[1]))
    reader.read_coco(source(CONTENT))
    assert not cache.exists()


def test_results_with_findings_are_not_stored(source, cache):
    """The second read must report them too."""
    some = source(document([image(1)], [box(5, 1, [1, 2, 3, 4], area="many")]))
    assert reader.read_coco(some).findings == reader.read_coco(some).findings != ()


def test_cache_folder_that_cannot_be_created_is_ignored(source, cache):
    cache.parents[1].write_text("a file")
    some = source(CONTENT)
    assert same(reader.read_coco(some), reader.read_coco(some))


def test_simultaneous_readers_agree(source, cache):
    some = source(CONTENT)
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda _: reader.read_coco(some), range(24)))
    assert all(same(results[0], other) for other in results)
    assert len(list(cache.iterdir())) == 1

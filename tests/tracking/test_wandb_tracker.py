import json
import struct
import time

import pytest

from retinanet.tracking.wandb_tracker import WandbTracker
from tests.helpers.tracked_runs import LOGGED, follow_interrupted_run, follow_resumed_run

pytest.importorskip("wandb", reason="Weights & Biases is an optional tracker")


BLOCK, HEADER = 32768, struct.Struct("<IHB")  # LevelDB's log format: checksum, length, and type of a part
FIRST, LAST = (1, 2), (1, 4)  # types of a part that begins a record, and that ends it


def records_of(file):
    """The records in an offline file of Weights & Biases, whose first seven bytes identify its format."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, parts = file.read_bytes(), 7, []
    while position + HEADER.size <= len(data):
        if BLOCK - position % BLOCK < HEADER.size:  # the rest of the block is padding
            position += BLOCK - position % BLOCK
            continue
        _, length, kind = HEADER.unpack_from(data, position)
        position += HEADER.size
        parts = [*([] if kind in FIRST else parts), data[position : position + length]]
        position += length
        if kind in LAST:
            record = Record()
            record.ParseFromString(b"".join(parts))
            yield record


def records_of_runs(folder, count):
    """The records of `count` runs in a folder; another process writes the last ones after a run has ended."""
    deadline = time.monotonic() + 30
    while True:
        files = sorted(folder.glob("offline-run-*/*.wandb"))  # by time
        records = [record for file in files for record in records_of(file)]
        if sum(record.HasField("exit") for record in records) == count or time.monotonic() > deadline:
            return records
        time.sleep(0.1)


def test_resumed_run_continues_the_same_record(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = tmp_path / "cells"
    folder.mkdir()
    follow_interrupted_run(WandbTracker(), folder)
    follow_resumed_run(WandbTracker(), folder)

    records = records_of_runs(folder / "tracking" / "wandb", 2)
    runs = [record.run for record in records if record.HasField("run")]
    assert {run.run_id for run in runs} == {(folder / "tracking" / "wandb.txt").read_text().strip()}
    assert {run.display_name for run in runs} == {"cells"} and {run.project for run in runs} == {"retinanet"}
    config = {item.key: item.value_json for run in runs for item in run.config.update}
    assert config["train.batch_size"] == "4"
    exits = [record.exit.exit_code for record in records if record.HasField("exit")]
    assert exits == [1, 0]
    history = [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.HasField("history")
    ]
    for name, expected in LOGGED.items():
        assert sorted((line["step"], line[name]) for line in history if name in line) == expected

"""The record of a prediction's results, written batch by batch, from which an interrupted prediction continues.

A JSON Lines file: a header with the settings, the names of the output files that belong to the prediction, one line for
each image, and one line for each batch of frames of a video. A batch is valid once the line that ends it has been
written, so that a continued prediction forms the same batches: the last digits of the scores depend on them.
"""

import json
import os
import time
from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from retinanet.errors import InputError

JOURNAL_FILE = "predictions.jsonl"
FORMAT = 1
SYNC_INTERVAL = 5.0  # seconds between calls of fsync


class Entry(NamedTuple):
    """Where the results of an image or a video are in the journal, and what identifies the file they belong to."""

    places: "array[int]"  # offset and length of each line
    name: str
    stamp: list[int] | None
    failed: bool
    num_frames: int = 0  # of a video
    ended: bool = True  # whether a video has no further frames, or none that can be read


class Journal:
    """The journal in an output folder, open for reading and appending.

    Attributes:
        settings: the settings of the recorded results; None for a new journal.
        names: names of the output files that belong to the prediction, relative to the folder, with `/`.
    """

    def __init__(self, folder: Path):
        self.path = folder / JOURNAL_FILE
        self.settings: dict[str, Any] | None = None
        self.names: set[str] = set()
        self._entries: dict[str, Entry] = {}
        self._file: BinaryIO | None = None
        self._end = 0  # of the last valid line
        self._last_sync = time.monotonic()
        if self.path.exists():
            self._read()

    def __len__(self) -> int:
        return len(self._entries)

    def paths_with_results(self) -> list[str]:
        """Absolute paths of the images, and of the videos, that were read, in whole or in part."""
        return [path for path, entry in self._entries.items() if entry.num_frames or not entry.failed]

    def __contains__(self, path: str) -> bool:
        return path in self._entries

    def entry(self, path: str) -> Entry | None:
        """The place of the results of an image or a video, by the absolute path of its file."""
        return self._entries.get(path)

    def record(self, path: str) -> dict[str, Any] | None:
        """Read the recorded result of an image, or the last one of a video; None if there is none."""
        entry = self._entries.get(path)
        return None if entry is None else self._record_at(*entry.places[-2:])

    def parts(self, path: str) -> Iterator[dict[str, Any]]:
        """Read the recorded results of a video, one for each batch of frames, or the only one of an image."""
        entry = self._entries.get(path)
        places = () if entry is None else entry.places
        return (self._record_at(*places[at : at + 2]) for at in range(0, len(places), 2))

    def records(self) -> Iterator[dict[str, Any]]:
        """Read all recorded results."""
        return (record for path in self._entries for record in self.parts(path))

    def start(self, settings: Mapping[str, Any], names: Iterable[str]) -> None:
        """Record the settings of a new journal, replacing any previous content, and the names of output files."""
        self.names |= set(names)
        self._entries.clear()
        self.settings = dict(settings)
        header = _line({"retinanet predict": FORMAT, "settings": self.settings})
        partial = self.path.with_name(f".{JOURNAL_FILE}.partial")
        try:
            self.close()
            partial.write_bytes(header + _line({"outputs": sorted(self.names)}))
            with open(partial, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(partial, self.path)
        except OSError as error:
            raise self._cannot_be_written(error) from None
        self._end = self.path.stat().st_size

    def claim(self, names: Iterable[str]) -> None:
        """Record the names of output files before they are written, so that they are known to be ours."""
        new = sorted(set(names) - self.names)
        if new:
            self._append([_line({"outputs": new})])
            self.names |= set(new)
            self._sync()

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Record the results of a batch; each has the absolute path of its file in `path`.

        A result of a video has a list of `frames`, the number of frames before them (`start`), and whether they are the
        last ones (`ended`). If `start` is 0, it replaces earlier results of the video.
        """
        records = list(records)
        lines = [_line({"video" if "frames" in record else "image": record}) for record in records]
        position = self._end
        self._append([*lines, _line({"batch": len(lines)})])
        for record, line in zip(records, lines, strict=True):
            self._add(record, position, len(line))
            position += len(line)
        if time.monotonic() - self._last_sync > SYNC_INTERVAL:
            self._sync()

    def close(self) -> None:
        """Write everything to the disk and close the file."""
        if self._file is not None:
            try:
                self._sync()
            finally:
                self._file.close()
                self._file = None

    def _record_at(self, offset: int, length: int) -> dict[str, Any]:
        file = self._opened()
        file.seek(offset)
        record = _record_in(json.loads(file.read(length)))
        assert record is not None
        return record

    def _add(self, record: Mapping[str, Any], offset: int, length: int) -> None:
        """Note where a record is; a later record of an image, or of a video from its start, replaces earlier ones."""
        path, failed = record["path"], "error" in record
        entry = Entry(array("q", [offset, length]), record["name"], record["stamp"], failed)
        if "frames" in record:
            before = self._entries.get(path) if record["start"] else None
            if before is not None:
                before.places.extend(entry.places)
                entry = entry._replace(places=before.places)
            entry = entry._replace(num_frames=record["start"] + len(record["frames"]), ended=record["ended"])
        self._entries[path] = entry

    def _opened(self) -> BinaryIO:
        if self._file is None:
            try:
                self._file = open(self.path, "rb+")
                self._file.truncate(self._end)  # removes an incomplete batch
            except OSError as error:
                raise self._cannot_be_written(error) from None
        return self._file

    def _append(self, lines: list[bytes]) -> None:
        file = self._opened()
        content = b"".join(lines)
        try:
            file.seek(self._end)
            file.write(content)
            file.flush()
        except OSError as error:
            raise self._cannot_be_written(error) from None
        self._end += len(content)

    def _sync(self) -> None:
        try:
            os.fsync(self._opened().fileno())
        except OSError as error:
            raise self._cannot_be_written(error) from None
        self._last_sync = time.monotonic()

    def _cannot_be_written(self, error: OSError) -> InputError:
        return InputError(
            f"{self.path}: cannot be written: {error.strerror or error}; the results so far are kept; to continue, "
            "correct this and run the same command again, without --overwrite"
        )

    def _read(self) -> None:
        """Read the lines up to the last complete batch; a crash may have left an incomplete one after it."""
        batch: list[tuple[dict[str, Any], int, int]] = []  # records with offset and length of their lines
        position = 0
        try:
            with open(self.path, "rb") as file:
                for line in file:
                    values = _values(line)
                    if self.settings is None and "retinanet predict" not in (values or {}):
                        raise InputError(
                            f"{self.path}: was not written by `retinanet predict`; choose another --output"
                        )
                    if values is None:
                        return
                    if (record := _record_in(values)) is not None:
                        batch.append((record, position, len(line)))
                    elif "batch" in values:
                        for added in batch:
                            self._add(*added)
                        batch = []
                    elif "outputs" in values:
                        self.names |= set(values["outputs"])
                    elif values.get("retinanet predict") == FORMAT:
                        self.settings = values["settings"]
                    else:
                        raise InputError(
                            f"{self.path}: was written by another version of `retinanet predict`; choose another "
                            "--output"
                        )
                    position += len(line)
                    if not batch:
                        self._end = position
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read: {error.strerror}; choose another --output") from None


def crops_in(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names of the crops of recorded images, and of the frames of recorded videos."""
    return [name for record in records for result in record.get("frames", [record]) for name in result.get("crops", ())]


def stamp_of(files: Iterable[str]) -> list[int] | None:
    """Size and modification time of each file, which tell whether it has changed; None if one is missing."""
    try:
        found = [os.stat(file) for file in files]
    except OSError:
        return None
    return [value for status in found for value in (status.st_size, status.st_mtime_ns)]


def _line(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values).encode() + b"\n"


def _values(line: bytes) -> dict[str, Any] | None:
    """The content of a line; None if a crash has damaged it."""
    try:
        values = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return values if isinstance(values, dict) else None


def _record_in(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """The result in a line; None if the line contains something else."""
    return values.get("image") or values.get("video")

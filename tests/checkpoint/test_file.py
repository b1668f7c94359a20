import hashlib
import json
import os
import subprocess
import zipfile

import pytest
import torch

from retinanet.checkpoint.file import DamagedCheckpoint, checksum_file, read_checkpoint, write_checkpoint
from retinanet.errors import InputError

FORMAT = "retinanet checkpoint 2"


def content(value: float = 1.5, size: int = 1000) -> dict:
    return {"model": {"weight": torch.full((size,), value), "bias": torch.arange(5)}, "config": json.dumps({"a": 1})}


def write(path, value: float = 1.5, size: int = 1000, checksum: bool = True):
    digest = write_checkpoint(path, content(value, size))
    if checksum:
        checksum_file(path).write_text(f"{digest}  {path.name}\n")
    return path


def same(read: dict, expected: dict) -> bool:
    return json.dumps(read, default=torch.Tensor.tolist) == json.dumps(
        {"format": FORMAT, **expected}, default=torch.Tensor.tolist
    )


@pytest.mark.parametrize("size", [0, 1, 1000, 100_000])
def test_the_checksum_taken_while_writing_is_that_of_the_file(tmp_path, size):
    digest = write_checkpoint(tmp_path / "x.pt", content(size=size))
    assert digest == hashlib.sha256((tmp_path / "x.pt").read_bytes()).hexdigest()
    # The tool of the same name agrees, so that a user can check by hand.
    checksum_file(write(tmp_path / "y.pt", size=size))
    subprocess.run(["sha256sum", "--check", "--strict", "y.pt.sha256"], cwd=tmp_path, check=True, capture_output=True)
    assert same(read_checkpoint(tmp_path / "y.pt"), content(size=size))


def test_the_same_content_gives_the_same_bytes_under_any_name(tmp_path):
    assert write(tmp_path / "a.pt").read_bytes() == write(tmp_path / "b.pt").read_bytes()


def test_content_that_reading_would_refuse_is_refused_when_it_is_written(tmp_path):
    with pytest.raises(TypeError, match=r"could not be read again, it asks for pathlib\.\w*Path"):
        write_checkpoint(tmp_path / "x.pt", {"output": tmp_path})


@pytest.mark.parametrize("checksum", [True, False])
def test_a_file_cut_off_anywhere_is_damaged(tmp_path, checksum):
    path = write(tmp_path / "x.pt", checksum=checksum)
    whole = path.read_bytes()
    lengths = {0, 1, 2, 3, 4, 5, 22, 100, 1000, *range(5, len(whole), 97), *range(len(whole) - 200, len(whole))}
    for length in sorted(lengths):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedCheckpoint, match=f"x.pt: .*it is cut off after {length} bytes"):
            read_checkpoint(path)
    path.write_bytes(whole)
    assert same(read_checkpoint(path), content())


def test_any_flipped_bit_is_noticed_by_the_checksum(tmp_path):
    path = write(tmp_path / "x.pt", size=10)
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        data = bytearray(whole)
        data[position] ^= 1 << position % 8
        path.write_bytes(data)
        with pytest.raises(DamagedCheckpoint, match=r"is damaged, its checksum differs from x\.pt\.sha256; "):
            read_checkpoint(path)


@pytest.mark.slow
def test_without_a_checksum_a_flipped_bit_is_noticed_or_changes_nothing(tmp_path):
    """Every bit of the directory at the end, and one of each byte before. Read is what was written, or nothing."""
    path = write(tmp_path / "x.pt", size=10, checksum=False)
    whole = path.read_bytes()
    records = zipfile.ZipFile(path).infolist()
    directory = zipfile.ZipFile(path).start_dir
    noticed = set()
    for position in range(len(whole)):
        for bit in range(8) if position >= directory else [position % 8]:
            data = bytearray(whole)
            data[position] ^= 1 << bit
            path.write_bytes(data)
            try:
                assert same(read_checkpoint(path), content(size=10)), f"bit {bit} of byte {position}"
            except InputError:
                noticed.add(position)
    for record in records:  # its bytes follow a header of 30 bytes, the name and an extra field that aligns them
        name_length, extra_length = whole[record.header_offset + 26], whole[record.header_offset + 28]
        extra_length += whole[record.header_offset + 29] << 8
        start = record.header_offset + 30 + name_length + extra_length
        assert noticed.issuperset(range(start, start + record.file_size)), record.filename


@pytest.mark.parametrize("position", [0, 10, 63, 64, 66])
def test_a_flipped_bit_in_the_checksum_file_is_noticed(tmp_path, position):
    path = write(tmp_path / "x.pt")
    line = bytearray(checksum_file(path).read_bytes())
    line[position] ^= 0x80  # no text any more
    checksum_file(path).write_bytes(line)
    if position > 64:  # in the name, which says nothing about the content
        assert same(read_checkpoint(path), content())
        return
    with pytest.raises(DamagedCheckpoint, match=r"checksum differs from x\.pt\.sha256"):
        read_checkpoint(path)


def test_a_deleted_checksum_is_no_reason_to_refuse(tmp_path):
    assert same(read_checkpoint(write(tmp_path / "x.pt", checksum=False)), content())


def test_reading_a_damaged_file_moves_nothing(tmp_path):
    path = write(tmp_path / "step_00000001.pt")
    (tmp_path / "last.pt").symlink_to(path.name)
    path.write_bytes(path.read_bytes()[:1000])
    for name in ("last.pt", path.name):
        with pytest.raises(DamagedCheckpoint, match=name):
            read_checkpoint(tmp_path / name)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.pt", path.name, f"{path.name}.sha256"]


# ---- what is no checkpoint of ours


class Touches:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("checksum", [True, False], ids=["with a checksum", "without"])
@pytest.mark.parametrize("zipped", [True, False], ids=["archive", "bare pickle"])
def test_a_pickle_that_would_run_code_is_refused_unexecuted(tmp_path, zipped, checksum, monkeypatch):
    # With it, torch.load without a word on weights_only would run the code.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path, touched = tmp_path / "x.pt", tmp_path / "touched"
    torch.save({"format": FORMAT, "step": 1, "model": Touches(touched)}, path, _use_new_zipfile_serialization=zipped)
    if checksum:
        checksum_file(path).write_text(hashlib.sha256(path.read_bytes()).hexdigest() + "  x.pt\n")
    with pytest.raises(InputError) as error:
        read_checkpoint(path)
    assert not isinstance(error.value, DamagedCheckpoint)
    assert str(error.value).startswith(f"{path}: is not a checkpoint of this framework: it ")
    assert ("asks for posix.system" if zipped else "is a bare pickle, which could run code") in str(error.value)
    assert "it is not trusted and nothing in it was run" in str(error.value)
    assert not touched.exists()
    torch.load(path, weights_only=False)  # the trap is a real one
    assert touched.exists()


def test_a_tensor_of_ours_does_not_hide_a_function_beside_it(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"format": FORMAT, **content(), "hook": os.system}, path)
    with pytest.raises(InputError, match=r"asks for posix\.system"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        ("missing", "no such checkpoint; training writes RUN/checkpoints/last.pt and best.pt"),
        ("folder", "no such checkpoint"),
        ("text", "is no archive of torch.save"),
        ("zeros", "is no archive of torch.save"),
        ("old format", "is a bare pickle, which could run code"),
        ("zip", "is not a checkpoint of this framework: .*not trusted"),
        ("script", "is not a checkpoint of this framework: .*not trusted"),
        ("weights", "holds something else than a 'retinanet checkpoint 2'"),
        ("tensor", "holds something else than a 'retinanet checkpoint 2'"),
        ("other format", "holds something else than a 'retinanet checkpoint 2'"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*[Tt]orch.?[Ss]cript", "ignore:.*torch.jit")
def test_what_is_no_checkpoint_is_refused_by_name(tmp_path, make, message):
    path = tmp_path / "x.pt"
    match make:
        case "folder":
            path.mkdir()
        case "text":
            path.write_text("weights, honestly")
        case "zeros":
            path.write_bytes(bytes(5000))
        case "old format":
            torch.save({"format": FORMAT, **content()}, path, _use_new_zipfile_serialization=False)
        case "zip":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("letter.txt", "hello")
        case "script":
            torch.jit.script(torch.nn.Linear(2, 2)).save(path)
        case "weights":
            torch.save({"model": {}}, path)
        case "tensor":
            torch.save(torch.zeros(3), path)
        case "other format":
            torch.save({**content(), "format": "retinanet checkpoint 1"}, path)
    with pytest.raises(InputError, match=message) as error:
        read_checkpoint(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
    assert not isinstance(error.value, DamagedCheckpoint)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become a user who may not read the file")
def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    write(tmp_path / "x.pt").chmod(0o600)
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)  # the folders above may be closed to others
    os.seteuid(65534)
    try:
        with pytest.raises(InputError, match=r"^x\.pt: cannot be read: Permission denied; name another checkpoint$"):
            read_checkpoint("x.pt")
    finally:
        os.seteuid(0)

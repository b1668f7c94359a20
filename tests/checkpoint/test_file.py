import errno
import hashlib
import json
import os
import subprocess
import zipfile

import pytest
import torch

from retinanet.checkpoint import file as file_module
from retinanet.checkpoint.file import (
    Checkpoint,
    DamagedCheckpoint,
    read_checkpoint,
    sync_folder,
    write_checkpoint,
)
from retinanet.checkpoint.saved import checksum_file
from retinanet.config import Config, TrainConfig
from retinanet.errors import InputError
from tests.helpers.checkpoints import checkpoint_of

FORMAT = "retinanet checkpoint 4"


def small(value: float = 1.5, size: int = 1000) -> Checkpoint:
    return checkpoint_of(step=4, model={"weight": torch.full((size,), value), "bias": torch.arange(5)})


def write(path, value: float = 1.5, size: int = 1000, checksum: bool = True):
    digest = write_checkpoint(path, small(value, size))
    if checksum:
        checksum_file(path).write_text(f"{digest}  {path.name}\n")
    return path


def same(read: Checkpoint, expected: Checkpoint) -> bool:
    """Whether all fields are equal, with floats compared bit for bit."""
    states = [json.dumps(checkpoint.state, default=torch.Tensor.tolist) for checkpoint in (read, expected)]
    return read._replace(state={}) == expected._replace(state={}) and states[0] == states[1]


@pytest.mark.parametrize("size", [0, 1, 1000, 100_000])
def test_checksum_computed_while_writing_matches_the_file(tmp_path, size):
    digest = write_checkpoint(tmp_path / "x.pt", small(size=size))
    assert digest == hashlib.sha256((tmp_path / "x.pt").read_bytes()).hexdigest()
    # sha256sum accepts the checksum file, so users can verify it themselves.
    checksum_file(write(tmp_path / "y.pt", size=size))
    subprocess.run(["sha256sum", "--check", "--strict", "y.pt.sha256"], cwd=tmp_path, check=True, capture_output=True)
    assert same(read_checkpoint(tmp_path / "y.pt"), small(size=size))


def test_same_checkpoint_gives_the_same_bytes_under_any_name(tmp_path):
    assert write(tmp_path / "a.pt").read_bytes() == write(tmp_path / "b.pt").read_bytes()


def test_state_that_could_not_be_read_back_is_refused_when_written(tmp_path):
    with pytest.raises(TypeError, match=r"cannot be read back: it refers to pathlib\.[\w.]*Path"):
        write_checkpoint(tmp_path / "x.pt", checkpoint_of(output=tmp_path))


@pytest.mark.parametrize("ema", [None, {"model": {"weight": torch.zeros(2)}, "updates": 3}])
def test_weights_are_the_moving_average_unless_it_is_missing_or_disabled(ema):
    checkpoint = checkpoint_of(model={"weight": torch.ones(2)}, ema=ema)
    assert checkpoint.weights() == (ema or checkpoint.state)["model"]
    assert checkpoint.weights(average=False) == checkpoint.state["model"]


def test_config_keys_missing_from_a_checkpoint_take_their_defaults(tmp_path):
    write_checkpoint(tmp_path / "x.pt", small())
    content = torch.load(tmp_path / "x.pt", weights_only=True)
    content["config"] = json.dumps({"train": {"steps": 7}})
    torch.save(content, tmp_path / "x.pt")
    assert read_checkpoint(tmp_path / "x.pt").config == Config(train=TrainConfig(steps=7))


def test_unknown_config_key_in_a_checkpoint_is_reported(tmp_path):
    write_checkpoint(tmp_path / "x.pt", small())
    content = torch.load(tmp_path / "x.pt", weights_only=True)
    content["config"] = json.dumps({"train": {"steps": 7, "colour": 1}})
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(InputError, match=r"x\.pt: config: .*\n  train\.colour: unknown key"):
        read_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize("checksum", [True, False])
def test_file_truncated_at_any_point_is_reported_as_damaged(tmp_path, checksum):
    path = write(tmp_path / "x.pt", checksum=checksum)
    whole = path.read_bytes()
    lengths = {0, 1, 2, 3, 4, 5, 22, 100, 1000, *range(5, len(whole), 97), *range(len(whole) - 200, len(whole))}
    for length in sorted(lengths):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedCheckpoint, match=f"x.pt: .*it is truncated after {length} bytes"):
            read_checkpoint(path)
    path.write_bytes(whole)
    assert same(read_checkpoint(path), small())


def test_checksum_detects_a_flipped_bit_in_every_seventh_byte(tmp_path):
    path = write(tmp_path / "x.pt", size=10)
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        data = bytearray(whole)
        data[position] ^= 1 << position % 8
        path.write_bytes(data)
        with pytest.raises(DamagedCheckpoint, match=r"damaged: checksum differs from x\.pt\.sha256[;,] "):
            read_checkpoint(path)


@pytest.mark.slow
def test_without_a_checksum_a_flipped_bit_is_detected_or_changes_nothing(tmp_path):
    """Flip one bit of each byte, and two of each byte of the directory at the end, whose entries are alike."""
    path = write(tmp_path / "x.pt", size=10, checksum=False)
    whole = path.read_bytes()
    records = zipfile.ZipFile(path).infolist()
    directory = zipfile.ZipFile(path).start_dir
    detected = set()
    for position in range(len(whole)):
        for bit in [position % 8, (position + 3) % 8] if position >= directory else [position % 8]:
            data = bytearray(whole)
            data[position] ^= 1 << bit
            path.write_bytes(data)
            try:
                assert same(read_checkpoint(path), small(size=10)), f"bit {bit} of byte {position}"
            except InputError:
                detected.add(position)
    for record in records:  # its data follows a 30-byte header, the name, and an extra field for alignment
        name_length, extra_length = whole[record.header_offset + 26], whole[record.header_offset + 28]
        extra_length += whole[record.header_offset + 29] << 8
        start = record.header_offset + 30 + name_length + extra_length
        assert detected.issuperset(range(start, start + record.file_size)), record.filename


@pytest.mark.parametrize("position", [0, 10, 63, 64, 66])
def test_flipped_bit_in_a_checksum_file_is_detected(tmp_path, position):
    path = write(tmp_path / "x.pt")
    line = bytearray(checksum_file(path).read_bytes())
    line[position] ^= 0x80  # no longer text
    checksum_file(path).write_bytes(line)
    if position > 64:  # in the file name, which is not checked
        assert same(read_checkpoint(path), small())
        return
    with pytest.raises(DamagedCheckpoint, match=r"checksum differs from x\.pt\.sha256"):
        read_checkpoint(path)


def test_checkpoint_without_a_checksum_file_is_read(tmp_path):
    assert same(read_checkpoint(write(tmp_path / "x.pt", checksum=False)), small())


def test_reading_a_damaged_file_renames_nothing(tmp_path):
    path = write(tmp_path / "step_00000001.pt")
    (tmp_path / "last.pt").symlink_to(path.name)
    path.write_bytes(path.read_bytes()[:1000])
    for name in ("last.pt", path.name):
        with pytest.raises(DamagedCheckpoint, match=name):
            read_checkpoint(tmp_path / name)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.pt", path.name, f"{path.name}.sha256"]


# ---- files that are not checkpoints


class Touches:
    """Creates a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("checksum", [True, False], ids=["with a checksum", "without"])
@pytest.mark.parametrize("zipped", [True, False], ids=["archive", "bare pickle"])
def test_pickle_that_would_run_code_is_refused_without_running_it(tmp_path, zipped, checksum, monkeypatch):
    # With this variable, torch.load without an explicit weights_only would run the code.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path, touched = tmp_path / "x.pt", tmp_path / "touched"
    torch.save({"format": FORMAT, "step": 1, "model": Touches(touched)}, path, _use_new_zipfile_serialization=zipped)
    if checksum:
        checksum_file(path).write_text(hashlib.sha256(path.read_bytes()).hexdigest() + "  x.pt\n")
    with pytest.raises(InputError) as error:
        read_checkpoint(path)
    assert not isinstance(error.value, DamagedCheckpoint)
    assert str(error.value).startswith(f"{path}: not a retinanet checkpoint: it ")
    assert ("refers to posix.system" if zipped else "is a bare pickle, which could run code") in str(error.value)
    assert "refused to load it; no code was executed" in str(error.value)
    assert not touched.exists()
    torch.load(path, weights_only=False)  # the code does run if trusted
    assert touched.exists()


def test_function_among_valid_tensors_is_refused(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"format": FORMAT, **small().state, "hook": os.system}, path)
    with pytest.raises(InputError, match=r"refers to posix\.system"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        ("missing", "no such checkpoint; training writes RUN/checkpoints/last.pt and best.pt"),
        ("folder", "no such checkpoint"),
        ("text", "is not a torch.save archive"),
        ("zeros", "is not a torch.save archive"),
        ("bare pickle", "is a bare pickle, which could run code"),
        ("zip", "not a retinanet checkpoint: .*refused to load"),
        ("script", "not a retinanet checkpoint: .*refused to load"),
        ("weights", "not a 'retinanet checkpoint 4'; pass a checkpoint written by `retinanet train`"),
        ("tensor", "not a 'retinanet checkpoint 4'; pass a checkpoint written by `retinanet train`"),
        ("unknown format", "not a 'retinanet checkpoint 4'; pass a checkpoint written by `retinanet train`"),
        (
            "older format",
            "found format 'retinanet checkpoint 2', expected 'retinanet checkpoint 4'; use the version of retinanet "
            "that wrote it, or train again",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:.*[Tt]orch.?[Ss]cript", "ignore:.*torch.jit")
def test_file_that_is_not_a_checkpoint_is_refused_with_its_path(tmp_path, make, message):
    path = tmp_path / "x.pt"
    match make:
        case "folder":
            path.mkdir()
        case "text":
            path.write_text("weights, honestly")
        case "zeros":
            path.write_bytes(bytes(5000))
        case "bare pickle":
            torch.save({"format": FORMAT, **small().state}, path, _use_new_zipfile_serialization=False)
        case "zip":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("letter.txt", "hello")
        case "script":
            torch.jit.script(torch.nn.Linear(2, 2)).save(path)
        case "weights":
            torch.save({"model": {}}, path)
        case "tensor":
            torch.save(torch.zeros(3), path)
        case "unknown format":
            torch.save({**small().state, "format": "another checkpoint"}, path)
        case "older format":
            torch.save({**small().state, "format": "retinanet checkpoint 2"}, path)
    with pytest.raises(InputError, match=message) as error:
        read_checkpoint(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
    assert not isinstance(error.value, DamagedCheckpoint)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to switch to a user without read permission")
def test_file_without_read_permission_is_reported(tmp_path, monkeypatch):
    write(tmp_path / "x.pt").chmod(0o600)
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)  # parent folders may not be accessible to other users
    os.seteuid(65534)
    try:
        with pytest.raises(InputError, match=r"^x\.pt: cannot be read: Permission denied; pass another checkpoint$"):
            read_checkpoint("x.pt")
    finally:
        os.seteuid(0)


# ---- flushing folders


def raising(number: int):
    def fail(*arguments):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_file_system_that_cannot_flush_folders_is_tolerated(tmp_path, monkeypatch, number):
    monkeypatch.setattr(os, "fsync", raising(number))
    sync_folder(tmp_path)


@pytest.mark.parametrize("call", ["open", "fsync"])
@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ENOSPC])
def test_any_other_error_while_flushing_a_folder_is_raised(tmp_path, monkeypatch, call, number):
    monkeypatch.setattr(os, call, raising(number))
    with pytest.raises(OSError, match=os.strerror(number)):
        sync_folder(tmp_path)


def test_folder_is_not_opened_on_windows_where_that_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(file_module, "IS_WINDOWS", True)
    monkeypatch.setattr(os, "open", raising(errno.EACCES))
    sync_folder(tmp_path)

import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from retinanet.errors import InputError
from retinanet.interop.weight_files import read_weight_file

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.tensor([0.1, -0.2]), "count": torch.tensor(3)}
ARRAYS = {name: value.numpy() for name, value in STATE.items()}


def save(path, content, how):
    match how:
        case "torch":
            torch.save(content, path)
        case "old torch":
            torch.save(content, path, _use_new_zipfile_serialization=False)
        case "pickle":
            path.write_bytes(pickle.dumps(content))
        case "safetensors":
            save_file(content, path)


def assert_equal(state):
    assert list(state) == list(STATE)
    for name, expected in STATE.items():
        assert state[name].dtype == expected.dtype and torch.equal(state[name], expected), name


@pytest.mark.parametrize("suffix", ["pt", "pth", "bin", "safetensors", "pkl"])
@pytest.mark.parametrize(
    ("content", "how"), [(STATE, "torch"), (STATE, "old torch"), (ARRAYS, "pickle"), (STATE, "safetensors")]
)
def test_format_is_recognised_from_the_content_under_any_name(tmp_path, content, how, suffix):
    save(tmp_path / f"x.{suffix}", content, how)
    file = read_weight_file(tmp_path / f"x.{suffix}")
    assert_equal(dict(sorted(file.state.items(), key=lambda item: list(STATE).index(item[0]))))
    assert file.others == {}


@pytest.mark.parametrize("place", ["state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize(
    ("state", "how"), [(STATE, "torch"), (STATE, "old torch"), (ARRAYS, "pickle")], ids=["torch", "old torch", "pickle"]
)
def test_state_dict_is_found_in_a_training_checkpoint(tmp_path, state, how, place):
    others = {"epoch": 3, "__author__": "someone", "hyper_parameters": {"lr": 0.1}, "optimizer": {"state": {}}}
    save(tmp_path / "x.pt", {**others, place: state}, how)
    file = read_weight_file(tmp_path / "x.pt")
    assert_equal(file.state)
    assert file.others == others


def test_length_of_a_header_is_not_mistaken_for_a_pickle(tmp_path):
    """The first byte of safetensors is that of the length of the header, that of a pickle is 0x80."""
    for length in range(200):
        save_file({"x" * length: torch.ones(2)}, tmp_path / "x")
        if (tmp_path / "x").read_bytes()[0] == 0x80:
            break
    assert list(read_weight_file(tmp_path / "x").state) == ["x" * length]
    assert (tmp_path / "x").read_bytes()[0] == 0x80


def test_prefixes_are_removed(tmp_path):
    torch.save({"state_dict": {f"module.model.{name}": value for name, value in STATE.items()}}, tmp_path / "x.pt")
    assert_equal(read_weight_file(tmp_path / "x.pt").state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_become_float32(tmp_path, dtype):
    torch.save({"a": torch.tensor([1.5, -2.0], dtype=dtype)}, tmp_path / "x.pt")
    state = read_weight_file(tmp_path / "x.pt").state
    assert state["a"].dtype == torch.float32 and state["a"].tolist() == [1.5, -2.0]


def test_arrays_become_writable_tensors(tmp_path):
    arrays = {
        "big": np.arange(3, dtype=">f4"),
        "fortran": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    }
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(arrays, 5))
    state = read_weight_file(tmp_path / "x.pkl").state
    assert state["big"].add_(1).tolist() == [1, 2, 3]
    assert state["fortran"].is_contiguous() and state["fortran"].tolist() == [[0, 1, 2], [3, 4, 5]]


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("how", ["torch", "old torch", "pickle"])
def test_code_in_a_file_is_refused_and_does_not_run(tmp_path, how):
    save(tmp_path / "x.pt", {"model": ARRAYS if how == "pickle" else STATE, "trap": Trap(tmp_path / "sprung")}, how)
    with pytest.raises(
        InputError, match=r"x\.pt: it refers to (io|_io|builtins)\.open, but only .* no code was"
    ) as error:
        read_weight_file(tmp_path / "x.pt")
    assert not (tmp_path / "sprung").exists()
    assert "weights_only" not in str(error.value)  # torch suggests loading the file unsafely


def test_whole_module_is_refused_with_advice(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "x.pt")
    with pytest.raises(InputError, match=r"torch\.nn\.modules\.linear\.Linear.*torch\.save\(model\.state_dict\(\)"):
        read_weight_file(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a file of weights"),
        (b"<html>404</html>", "not a file of weights"),
        (b"version https://git-lfs.github.com/spec/v1", "not a file of weights"),
        (b"PK\x03\x04" + bytes(40), "damaged, or not"),
        (b"\x80\x04", "damaged, or not"),
        (b"\x80\x04\x95" + bytes(40), "damaged, or not"),
        (bytes([40] + [0] * 7) + b'{"a": 1', "damaged, or not"),
        (b"\xff" * 8 + b"{", "not a file of weights"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(InputError, match=rf"x\.pth: {message}"):
        read_weight_file(tmp_path / "x.pth")


@pytest.mark.parametrize("how", ["torch", "old torch", "pickle", "safetensors"])
def test_file_cut_off_anywhere_is_refused(tmp_path, how):
    path = tmp_path / "x.pt"
    save(path, ARRAYS if how == "pickle" else STATE, how)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, max(1, len(whole) // 20)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"x\.pt: "):
            read_weight_file(path)


@pytest.mark.parametrize(
    "content", [[torch.ones(2)], torch.ones(2), {"a": 1, "b": "text"}, {}, {1: torch.ones(2)}, {"model": {"a": "b"}}]
)
def test_file_without_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(InputError, match=r"x\.pt: contains no state dict"):
        read_weight_file(tmp_path / "x.pt")


def test_arrays_of_objects_are_refused(tmp_path):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"a": np.array([None, "text"], dtype=object)}))
    with pytest.raises(InputError, match=r"x\.pkl: contains arrays that are not numbers"):
        read_weight_file(tmp_path / "x.pkl")


def test_missing_file_and_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match="nowhere: cannot be read: No such file"):
        read_weight_file(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is a folder, expected a file"):
        read_weight_file(tmp_path)

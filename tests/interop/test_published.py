"""The published folder: bit-identical weights, and every kind of damage is an InputError."""

import json

import numpy as np
import pytest
import safetensors
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retinanet import __version__
from retinanet.checkpoint.file import file_checksum, write_checkpoint
from retinanet.config.public import public_config
from retinanet.errors import InputError
from retinanet.interop.published import read_model, read_published, write_published
from retinanet.interop.published_config import CONFIG_FILE, FILES, WEIGHTS_FILE, read_published_config
from tests.helpers.checkpoints import checkpoint_of
from tests.helpers.published import detector, published


def tiny(**tensors):
    """A checkpoint of any tensors, which need not fit a network."""
    return checkpoint_of(5, model=tensors or {"weight": torch.arange(12.0).view(3, 4)})


def assert_same_weights(found, expected):
    assert list(found) == sorted(expected)
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(bits(found[name]), bits(tensor)), name


def bits(tensor):
    return tensor.contiguous().view(-1).view(torch.uint8)


def test_checkpoint_is_read_back_without_optimizer_state_and_paths(tmp_path):
    checkpoint = detector(thresholds=(0.25, None, 0.1 + 0.2))
    found = read_published(published(tmp_path / "out", checkpoint))
    assert found._replace(state={}) == checkpoint._replace(state={}, config=public_config(checkpoint.config))
    assert list(found.state) == ["model"]
    assert_same_weights({name: found.weights()[name] for name in sorted(found.weights())}, checkpoint.weights())


def test_folder_has_three_files_and_only_the_average_of_the_weights(tmp_path):
    checkpoint = detector(average=True)
    folder = published(tmp_path / "out", checkpoint)
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    average, last = checkpoint.weights(), checkpoint.weights(average=False)
    found = read_published(folder).weights()
    assert all(torch.equal(found[name], average[name]) for name in average)
    assert not all(torch.equal(found[name], last[name]) for name in last)
    size = sum(tensor.nbytes for tensor in average.values())
    assert size < (folder / WEIGHTS_FILE).stat().st_size < size + 20_000  # names and shapes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool])
def test_tensors_of_all_dtypes_and_layouts_keep_their_bits(tmp_path, dtype):
    values = torch.tensor([0.0, -0.0, 1.0, float("inf"), 3e-39, 65504.0]).to(dtype)
    shared = torch.zeros(4)
    tensors = {
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(7),
        "shared 1": shared,
        "shared 2": shared,
        "transposed": torch.randn(3, 4).T,
        "values": values,
    }
    assert_same_weights(
        dict(sorted(read_published(published(tmp_path / "out", tiny(**tensors))).weights().items())), tensors
    )


def test_same_checkpoint_gives_the_same_files(tmp_path):
    first, second = (published(tmp_path / name, detector()) for name in "ab")
    for name in FILES:
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_safetensors_alone_reads_the_weights(tmp_path):
    folder = published(tmp_path / "out", tiny())
    with safetensors.safe_open(folder / WEIGHTS_FILE, framework="np") as opened:
        assert np.array_equal(opened.get_tensor("weight"), np.arange(12, dtype=np.float32).reshape(3, 4))
        assert opened.metadata() == {"format": "pt"}


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_truncated_or_changed_weights_are_damaged(tmp_path_factory, data):
    folder = published(tmp_path_factory.mktemp("damage") / "out", tiny())
    file = folder / WEIGHTS_FILE
    content = bytearray(file.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:position]
    else:
        content[position] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.safetensors: damaged: .*; publish the model or download the folder"):
        read_published(folder)


def test_truncated_weights_are_named_with_their_sizes(tmp_path):
    folder = published(tmp_path / "out", tiny())
    file = folder / WEIGHTS_FILE
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(InputError, match=f"damaged: truncated: found {size - 10} bytes, expected {size}; "):
        read_published(folder)


@pytest.mark.parametrize("name", [WEIGHTS_FILE, CONFIG_FILE])
def test_missing_file_is_named(tmp_path, name):
    folder = published(tmp_path / "out", tiny())
    (folder / name).unlink()
    with pytest.raises(InputError, match=rf"{name}: cannot be read: No such file or directory; "):
        read_published(folder)


def test_other_content_with_a_matching_checksum_is_refused(tmp_path):
    """For example, a pickle in place of the weights, which must not be executed."""
    folder = published(tmp_path / "out", tiny())
    file = folder / WEIGHTS_FILE
    torch.save({"weight": torch.zeros(3)}, file)
    values = json.loads((folder / CONFIG_FILE).read_text())
    values |= {"num_bytes": file.stat().st_size, "sha256": file_checksum(file)}
    (folder / CONFIG_FILE).write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"model\.safetensors: not a safetensors file: "):
        read_published(folder)


def test_folder_is_complete_or_absent(tmp_path, monkeypatch):
    monkeypatch.setattr("retinanet.interop.published.sync", lambda file: (_ for _ in ()).throw(OSError(28, "No space")))
    with pytest.raises(InputError, match="out: cannot be written: No space; free disk space"):
        published(tmp_path / "out", tiny())
    assert list(tmp_path.iterdir()) == []


def test_full_disk_leaves_the_old_folder(small_disk):
    folder = published(small_disk / "out", tiny())
    before = {name: (folder / name).read_bytes() for name in FILES}
    with pytest.raises(InputError, match="out: cannot be written: No space left on device; free disk space"):
        write_published(folder, tiny(weight=torch.zeros(500_000)), card="new", overwrite=True)
    assert {name: (folder / name).read_bytes() for name in FILES} == before
    assert [path.name for path in small_disk.iterdir()] == ["out"]


def test_published_folder_is_replaced_only_on_request(tmp_path):
    folder = published(tmp_path / "out", tiny())
    before = {name: (folder / name).read_bytes() for name in FILES}
    with pytest.raises(InputError, match="out: is a published folder; replace it with --overwrite, or choose another"):
        write_published(folder, tiny(), card="new")
    assert {name: (folder / name).read_bytes() for name in FILES} == before
    write_published(folder, tiny(), card="new", overwrite=True)
    assert (folder / "README.md").read_text() == "new" and list(tmp_path.iterdir()) == [folder]


def test_link_to_a_published_folder_is_kept(tmp_path):
    folder = published(tmp_path / "a", tiny())
    (tmp_path / "link").symlink_to(folder)
    write_published(tmp_path / "link", tiny(), card="new", overwrite=True)
    assert (tmp_path / "link").is_symlink() and (folder / "README.md").read_text() == "new"


def other_folders(tmp_path):
    """Folders and files that must never be replaced, by name."""
    mixed = published(tmp_path / "mixed", tiny())
    (mixed / "notes.txt").write_text("mine")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / CONFIG_FILE).write_text('{"model_type": "detr"}')
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "README.md").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    return {
        "mixed": r"mixed: contains notes\.txt, which `retinanet publish` did not write",
        "foreign": r"foreign: contains config\.json, which `retinanet publish` did not write",
        "photos": r"photos: contains README\.md, which `retinanet publish` did not write",
        "file": "file: exists and is not a folder",
        "dangling": "dangling: exists and is not a folder",
    }


def test_nothing_else_is_ever_replaced(tmp_path):
    cases = other_folders(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for name, message in cases.items():
        for overwrite in (False, True):
            with pytest.raises(InputError, match=message):
                write_published(tmp_path / name, tiny(), card="", overwrite=overwrite)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_read_model_reads_both_kinds(tmp_path):
    checkpoint = tiny()
    write_checkpoint(tmp_path / "a.pt", checkpoint)
    folder = published(tmp_path / "out", checkpoint)
    for path in (tmp_path / "a.pt", folder, str(folder)):
        assert torch.equal(read_model(path).weights()["weight"], checkpoint.weights()["weight"])
    with pytest.raises(InputError, match="gone: no such checkpoint"):
        read_model(tmp_path / "gone")
    assert read_published_config(folder).retinanet == __version__

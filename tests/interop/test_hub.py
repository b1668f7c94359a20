"""Download and upload, with stand-ins for the functions of huggingface_hub; the hub itself is not contacted."""

import shutil
import sys

import pytest

from retinanet.errors import InputError
from retinanet.interop.hub import check_uploadable, download, is_hub_id, upload
from retinanet.interop.published_config import FILES
from tests.helpers.checkpoints import filled, flip_a_bit
from tests.helpers.published import published

REASON = "huggingface_hub is optional: pip install retinanet[hub]"
hub = pytest.importorskip("huggingface_hub", reason=REASON)
errors = pytest.importorskip("huggingface_hub.errors", reason=REASON)


@pytest.fixture
def folder(tmp_path):
    return published(tmp_path / "cells", filled(1))


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A hub that keeps repositories as folders, and records the calls with all their arguments."""
    calls, root = [], tmp_path / "server"

    def create_repo(repo_id, **options):
        calls.append(("create_repo", repo_id, options))
        (root / repo_id).mkdir(parents=True, exist_ok=options["exist_ok"])
        return f"https://hub.example/{repo_id}"

    def upload_folder(*, repo_id, folder_path, allow_patterns, commit_message):
        calls.append(("upload_folder", repo_id, allow_patterns))
        for name in allow_patterns:
            shutil.copy(folder_path / name, root / repo_id / name)

    def snapshot_download(repo_id, *, revision, allow_patterns):
        calls.append(("snapshot_download", repo_id, revision, allow_patterns))
        return str(root / repo_id)

    for function in (create_repo, upload_folder, snapshot_download):
        monkeypatch.setattr(hub, function.__name__, function)
    return calls


@pytest.mark.parametrize(("public", "private"), [(False, True), (True, False)])
def test_upload_and_download_exchange_exactly_the_three_files(folder, server, public, private):
    (folder / "secret.txt").write_text("mine")
    assert upload(folder, "my-lab/cells", public=public) == "https://hub.example/my-lab/cells"
    found = download("my-lab/cells", revision="v2")
    assert sorted(path.name for path in found.iterdir()) == sorted(FILES)
    assert all((found / name).read_bytes() == (folder / name).read_bytes() for name in FILES)
    assert server == [
        ("create_repo", "my-lab/cells", {"private": private, "exist_ok": True}),
        ("upload_folder", "my-lab/cells", list(FILES)),
        ("snapshot_download", "my-lab/cells", "v2", list(FILES)),
    ]


def test_arguments_are_those_of_the_real_functions(folder, monkeypatch):
    """A wrong name would raise a TypeError, which would be reported as a failed upload."""
    import inspect

    assert {"revision", "allow_patterns"} <= set(inspect.signature(hub.snapshot_download).parameters)
    assert {"private", "exist_ok"} <= set(inspect.signature(hub.create_repo).parameters)
    names = {"repo_id", "folder_path", "allow_patterns", "commit_message"}
    assert names <= set(inspect.signature(hub.upload_folder).parameters)


def failing(error):
    def function(*arguments, **options):
        raise error

    return function


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("[Errno -2] Name or service not known"),
        errors.LocalEntryNotFoundError("no connection, and not in the cache"),
        errors.HFValidationError("repo name must use alphanumeric characters"),
        OSError(28, "No space left on device"),
        RuntimeError("anything else"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_failed_download_says_what_to_do(monkeypatch, error):
    monkeypatch.setattr(hub, "snapshot_download", failing(error))
    with pytest.raises(InputError) as caught:
        download("my-lab/cells", revision="v2")
    assert str(caught.value) == (
        "my-lab/cells at revision v2: there is no such folder here, and downloading it from the hub failed: "
        f"{error}; check the id and the network; for a private model, log in with `hf auth login`"
    )


def test_failed_upload_says_that_the_folder_is_complete(folder, server, monkeypatch):
    monkeypatch.setattr(hub, "upload_folder", failing(ConnectionError("unreachable")))
    with pytest.raises(InputError) as caught:
        upload(folder, "my-lab/cells", public=False)
    assert str(caught.value) == (
        f"my-lab/cells: the upload failed: unreachable; {folder} is complete: check the network, log in with `hf auth "
        f"login`, then run `retinanet publish {folder} --upload my-lab/cells`"
    )


def test_only_an_intact_published_folder_is_uploaded(folder, tmp_path, server):
    with pytest.raises(InputError, match=r"config\.json: cannot be read"):
        upload(tmp_path, "my-lab/cells", public=False)
    flip_a_bit(folder / "model.safetensors")
    with pytest.raises(InputError, match=r"model\.safetensors: damaged"):
        upload(folder, "my-lab/cells", public=False)
    assert server == []


def test_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    message = r"huggingface_hub is not installed; install it with `pip install retinanet\[hub\]`"
    with pytest.raises(InputError, match=f"^cannot download my-lab/cells: {message}$"):
        download("my-lab/cells")
    with pytest.raises(InputError, match=f"^cannot upload to my-lab/cells: {message}$"):
        check_uploadable("my-lab/cells")


@pytest.mark.parametrize("text", ["my-lab/cells", "a/b", "my.lab/cells_v2.1"])
def test_ids(text):
    assert is_hub_id(text)


@pytest.mark.parametrize("text", ["cells", "a/b/c", "./cells", "../cells", "/a", "a/", "~/cells", "a b/c", "a/b\n", ""])
def test_other_texts_are_not_ids(text):
    assert not is_hub_id(text)
    with pytest.raises(InputError, match="not an id on a hub; expected owner/name"):
        check_uploadable(text)

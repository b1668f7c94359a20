"""The downloading script, on archives of ours that a file:// address serves."""

import hashlib
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "download_coco.sh"
ARCHIVES = {"annotations_trainval2017.zip": "annotations", "val2017.zip": "zips", "train2017.zip": "zips"}
KEYS = {
    "annotations_trainval2017.zip": "COCO_ANNOTATIONS_MD5",
    "val2017.zip": "COCO_VAL_MD5",
    "train2017.zip": "COCO_TRAIN_MD5",
}

pytestmark = pytest.mark.skipif(not shutil.which("curl") or not shutil.which("md5sum"), reason="needs curl and md5sum")


@pytest.fixture
def source(tmp_path):
    """A folder like the server's, and the environment that points the script at it."""
    environment = {**os.environ, "COCO_URL": (tmp_path / "server").as_uri()}
    for name, folder in ARCHIVES.items():
        path = tmp_path / "server" / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        inside = "annotations" if folder == "annotations" else name.removesuffix(".zip")
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"{inside}/content.txt", f"from {name}")
        environment[KEYS[name]] = hashlib.md5(path.read_bytes()).hexdigest()
    return environment


def download(folder: Path, environment: dict) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", str(SCRIPT), str(folder)], env=environment, capture_output=True, text=True, timeout=60
    )


def test_downloads_checks_and_unpacks_once(tmp_path, source):
    folder = tmp_path / "coco"
    assert download(folder, source).returncode == 0
    assert (folder / "train2017/content.txt").read_text() == "from train2017.zip"
    assert (folder / "annotations/content.txt").read_text() == "from annotations_trainval2017.zip"
    assert not list(folder.glob("*.zip*"))
    again = download(folder, {**source, "COCO_URL": (tmp_path / "gone").as_uri()})
    assert again.returncode == 0, again.stderr


def test_an_interrupted_download_goes_on(tmp_path, source):
    folder = tmp_path / "coco"
    folder.mkdir()
    whole = (tmp_path / "server/zips/val2017.zip").read_bytes()
    (folder / "val2017.zip.partial").write_bytes(whole[: len(whole) // 2])
    assert download(folder, source).returncode == 0
    assert (folder / "val2017/content.txt").exists()


def test_a_damaged_archive_is_refused(tmp_path, source):
    result = download(tmp_path / "coco", {**source, "COCO_VAL_MD5": "0" * 32})
    assert result.returncode == 1
    assert "val2017.zip does not have the checksum" in result.stderr
    assert not (tmp_path / "coco/val2017").exists()

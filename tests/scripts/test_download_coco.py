"""scripts/download_coco.sh, on small archives behind a file:// URL."""

import hashlib
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "download_coco.sh"
ARCHIVES = {"annotations_trainval2017.zip": "annotations", "val2017.zip": "zips", "train2017.zip": "zips"}
KEYS = {
    "annotations_trainval2017.zip": "COCO_ANNOTATIONS_MD5",
    "val2017.zip": "COCO_VAL_MD5",
    "train2017.zip": "COCO_TRAIN_MD5",
}

pytestmark = pytest.mark.skipif(not shutil.which("curl") or not shutil.which("md5sum"), reason="needs curl and md5sum")


@pytest.fixture
def source(tmp_path):
    """Environment variables that point the script at a folder laid out like the server."""
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


def test_archives_are_verified_unpacked_and_not_downloaded_twice(tmp_path, source):
    folder = tmp_path / "coco"
    assert download(folder, source).returncode == 0
    assert (folder / "train2017/content.txt").read_text() == "from train2017.zip"
    assert (folder / "annotations/content.txt").read_text() == "from annotations_trainval2017.zip"
    assert not list(folder.glob("*.zip*"))
    again = download(folder, {**source, "COCO_URL": (tmp_path / "gone").as_uri()})
    assert again.returncode == 0, again.stderr


def test_interrupted_download_continues(tmp_path, source):
    folder = tmp_path / "coco"
    folder.mkdir()
    content = (tmp_path / "server/zips/val2017.zip").read_bytes()
    (folder / "val2017.zip.partial").write_bytes(content[: len(content) // 2])
    assert download(folder, source).returncode == 0
    assert (folder / "val2017/content.txt").exists()


def test_archive_with_a_wrong_checksum_is_rejected(tmp_path, source):
    result = download(tmp_path / "coco", {**source, "COCO_VAL_MD5": "0" * 32})
    assert result.returncode == 1
    assert "the MD5 of val2017.zip is not" in result.stderr
    assert not (tmp_path / "coco/val2017").exists()

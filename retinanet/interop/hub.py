"""Download published folders from a model hub, and upload them, with huggingface_hub."""

import re
from pathlib import Path
from types import ModuleType

from retinanet.errors import InputError, first_line
from retinanet.interop.published import read_published
from retinanet.interop.published_config import FILES

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_ID = re.compile(f"{_PART}/{_PART}")


def is_hub_id(text: str) -> bool:
    """Whether a text has the form of an id on a hub, `owner/name`. A relative path may have this form, too."""
    return _ID.fullmatch(text) is not None


def download(hub_id: str, *, revision: str | None = None) -> Path:
    """Download a published folder into the cache of huggingface_hub, unless it is there, and return its path.

    Only the three files of a published folder are downloaded.

    Args:
        revision: branch, tag or commit; None: the default branch.

    Raises:
        InputError: huggingface_hub is not installed, or the download failed.
    """
    hub = _huggingface_hub(f"download {hub_id}")
    try:
        return Path(hub.snapshot_download(hub_id, revision=revision, allow_patterns=list(FILES)))
    except Exception as error:  # errors of the network, of the server, of the id, and of the cache have many types
        at = f" at revision {revision}" if revision else ""
        raise InputError(
            f"{hub_id}{at}: there is no such folder here, and downloading it from the hub failed: {first_line(error)}; "
            "check the id and the network; for a private model, log in with `hf auth login`"
        ) from None


def upload(folder: Path, hub_id: str, *, public: bool) -> str:
    """Upload a published folder, and return the address of its page.

    Args:
        public: whether everyone may see a new repository. An existing repository stays as it is.

    Raises:
        InputError: the folder is damaged, huggingface_hub is not installed, or the upload failed.
    """
    read_published(folder)  # only to check that it is intact
    check_uploadable(hub_id)
    hub = _huggingface_hub(f"upload to {hub_id}")
    try:
        address = hub.create_repo(hub_id, private=not public, exist_ok=True)
        hub.upload_folder(
            repo_id=hub_id,
            folder_path=folder,
            allow_patterns=list(FILES),
            commit_message="Publish with retinanet",
        )
    except Exception as error:  # as for a download
        raise InputError(
            f"{hub_id}: the upload failed: {first_line(error)}; {folder} is complete: check the network, log in with "
            f"`hf auth login`, then run `retinanet publish {folder} --upload {hub_id}`"
        ) from None
    return str(address)


def check_uploadable(hub_id: str) -> None:
    """Check the form of an id, and that huggingface_hub is installed.

    Raises:
        InputError: the id is not `owner/name`, or huggingface_hub is not installed.
    """
    if not is_hub_id(hub_id):
        raise InputError(f"{hub_id}: not an id on a hub; expected owner/name, such as my-lab/cells")
    _huggingface_hub(f"upload to {hub_id}")


def _huggingface_hub(task: str) -> ModuleType:
    try:
        import huggingface_hub  # optional, and takes a second to import
    except ImportError:
        raise InputError(
            f"cannot {task}: huggingface_hub is not installed; install it with `pip install retinanet[hub]`"
        ) from None
    return huggingface_hub

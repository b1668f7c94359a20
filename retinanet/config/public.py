"""Make a config public: remove paths, and settings that apply only to this machine."""

import contextlib
import getpass
import itertools
import json
import re
import socket
from pathlib import Path

from retinanet.config.data import DataConfig
from retinanet.config.load import config_from_values
from retinanet.config.paths import map_paths
from retinanet.config.schema import Config

LOCAL_FILE = "local file"  # replaces the path of a file
_OWN_DATA = ("train", "val", "val_fraction", "val_group", "allow_outside_paths")  # keys of `data`
_WEIGHT_FILE = re.compile(r".*\.(pt|pth|pkl|safetensors|bin)", re.IGNORECASE)


def public_config(cfg: Config) -> Config:
    """Copy a config without anything private; model, images and detections stay the same.

    The sources of the data, `device`, and permission to read outside the image folder are reset to their defaults.
    Other paths, such as those of initial weights, become `LOCAL_FILE`; names such as `imagenet` stay.
    """
    values = json.loads(cfg.model_dump_json())
    default = json.loads(DataConfig().model_dump_json())
    values["data"] |= {name: default[name] for name in _OWN_DATA}
    values["device"] = Config.model_fields["device"].default
    values = map_paths(values, lambda path, key: LOCAL_FILE if _is_path(path) else path)
    return config_from_values(values, source="the config without paths")


def public_name(path: str) -> str | None:
    """Name of a file or folder without its folder; None if it contains the name of a user or of this computer."""
    parts = [part for part in re.split(r"[\\/]+", path) if part]
    if not parts:
        return None
    after_home = {name.lower() for home, name in itertools.pairwise(parts) if home.lower() in ("home", "users")}
    words = set(re.split(r"[^a-z0-9]+", parts[-1].lower())) | {parts[-1].lower()}
    return None if words & (after_home | _names_of_this_machine()) else parts[-1]


def _is_path(value: str) -> bool:
    return any(character in value for character in "/\\~$") or _WEIGHT_FILE.fullmatch(value) is not None


def _names_of_this_machine() -> set[str]:
    names = {socket.gethostname(), socket.gethostname().partition(".")[0]}
    with contextlib.suppress(OSError, KeyError, ImportError):  # depends on the system and the Python version
        names.add(getpass.getuser())
    with contextlib.suppress(RuntimeError):  # no home folder
        names.add(Path.home().name)
    return {name.lower() for name in names if name}

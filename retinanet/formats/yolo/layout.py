"""Find the class names and the images of each split in the YOLO dataset layouts of common tools."""

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retinanet.config.yaml_loader import read_yaml
from retinanet.errors import InputError
from retinanet.formats.image_paths.listing import files_in, image_files, is_image_name, path_inside
from retinanet.formats.splits import splits_in
from retinanet.formats.text_files.lines import checked_names, read_lines, read_names

log = logging.getLogger(__name__)

NAME_FILES = ("classes.txt", "obj.names", "labels.txt")
NO_PATH = ("", "null", "~")  # values in data.yaml that stand for a missing entry


@dataclass(frozen=True, kw_only=True)
class YoloLayout:
    """Class names of a YOLO dataset and the locations of its images.

    Attributes:
        root: the folder that contains the dataset.
        names: class names by number.
        names_file: the file that contains the names.
        entries: image folders and image list files by split; the key is None for a dataset without splits.
        has_keypoints: whether keypoints follow the box in each label line.
    """

    root: Path
    names: tuple[str, ...]
    names_file: Path
    entries: dict[str | None, tuple[Path, ...]] = field(default_factory=dict)
    has_keypoints: bool = False

    @property
    def splits(self) -> list[str]:
        """The split names; an empty list for a dataset without splits."""
        return [split for split in self.entries if split is not None]


def find_yolo(path: Path) -> YoloLayout | None:
    """Find a YOLO dataset in a folder or from its data.yaml; return None if there is none.

    Raises:
        InputError: it has no class names, or data.yaml is malformed.
    """
    file = path if path.is_file() and path.suffix in (".yaml", ".yml") else _data_yaml(path)
    if file is not None:
        return _from_yaml(file)
    entries = _entries_in(path)
    if not entries:
        return None
    folders = [path, path / "labels", path / "images", path.parent]
    for names_file in (folder / name for folder in folders for name in NAME_FILES):
        if names_file.is_file():
            return YoloLayout(root=path, names=read_names(names_file), names_file=names_file, entries=entries)
    if (above := _data_yaml(path.parent)) is not None:
        layout = _from_yaml(above)
        return YoloLayout(
            root=path, names=layout.names, names_file=above, entries=entries, has_keypoints=layout.has_keypoints
        )
    raise InputError(
        f"{path}: has label files in YOLO format, but no class names; add data.yaml with names, or classes.txt with "
        "one name per line"
    )


def images_of_entry(entry: Path, root: Path) -> list[Path]:
    """Return the image files of a folder, sorted by name, or of a list, in its order.

    Raises:
        InputError: the entry cannot be read, or lists a file outside `root`.
    """
    if os.path.isdir(entry):
        return [entry / name for name in image_files(entry)]
    return [_listed(line, number, entry, root) for number, line in enumerate(read_lines(entry), start=1) if line]


def label_file(image: Path) -> Path:
    """Return an image's label file: in `labels` next to the last `images` in its path, or beside the image."""
    parts = list(image.parent.parts)
    if "images" in parts:
        last = len(parts) - 1 - parts[::-1].index("images")
        if os.path.isdir(Path(*parts[:last], "labels")):
            parts[last] = "labels"
    return Path(*parts, f"{image.stem}.txt")


def _listed(line: str, number: int, file: Path, root: Path) -> Path:
    """Return the path in a line of an image list, relative to the list or to the dataset."""
    places = [Path(os.path.normpath(base / line.replace("\\", "/"))) for base in (file.parent, root)]
    inside = [place for place in places if path_inside(place, root) is not None]
    if not inside:
        raise InputError(f"{file}:{number}: {line!r} is outside {root}; list images inside the dataset")
    return next((place for place in inside if os.path.isfile(place)), inside[0])


def _data_yaml(folder: Path) -> Path | None:
    """Return the data.yaml of a folder, or its only YAML file with `names`."""
    for name in ("data.yaml", "data.yml", "dataset.yaml"):
        if (folder / name).is_file():
            return folder / name
    if not folder.is_dir():
        return None
    others = sorted(file for file in folder.iterdir() if file.suffix in (".yaml", ".yml") and file.is_file())
    with_names = [file for file in others if _mentions_names(file)]
    return with_names[0] if len(with_names) == 1 else None


def _mentions_names(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return any(line.startswith(b"names:") for line in opened.read(1_000_000).splitlines())
    except OSError:
        return False


def _from_yaml(file: Path) -> YoloLayout:
    values = read_yaml(file, as_text=True)
    root = _root(values.get("path", ""), file)
    entries: dict[str | None, tuple[Path, ...]] = {}
    for key in splits_in(values):
        given = values[key]
        paths = [path for path in (given if isinstance(given, list) else [given]) if path not in NO_PATH]
        if not all(isinstance(path, str) for path in paths):
            raise InputError(
                f"{file}: {key} is {str(given)[:80]}, expected a folder, a list of folders, or a .txt file"
            )
        if paths:
            entries[key] = tuple(_entry(path, key, root, file) for path in paths)
    return YoloLayout(
        root=root,
        names=_names_of_yaml(values, file),
        names_file=file,
        entries=entries or _entries_in(root),
        has_keypoints="kpt_shape" in values,
    )


def _root(given: Any, file: Path) -> Path:
    """Return the folder given by `path` in data.yaml, absolute or relative to the file; default: the file's folder."""
    if not isinstance(given, str):
        raise InputError(f"{file}: path is {str(given)[:80]}, expected the folder of the dataset")
    named = Path(os.path.normpath(file.parent / ("" if given in NO_PATH else os.path.expanduser(given))))
    # Exports contain the folder on the exporting machine; the dataset is then beside its data.yaml.
    return named if os.path.isdir(named) else file.parent


def _entry(given: str, key: str, root: Path, file: Path) -> Path:
    """Return the image folder or image list given by an entry of data.yaml."""
    place = Path(os.path.normpath(root / os.path.expanduser(given.replace("\\", "/"))))
    if path_inside(place, root) is not None or (os.path.isabs(given) and os.path.exists(given)):
        return place
    # Roboflow writes ../train/images for train/images. Other tools write the folder on the exporting machine.
    for start in range(1, len(place.parts)):
        inside = root.joinpath(*place.parts[start:])
        if os.path.exists(inside):
            log.info("%s: %s: %s is read as %s", file, key, given, inside)
            return inside
    problem = "does not exist" if os.path.isabs(given) else f"is outside {root}"
    raise InputError(f"{file}: {key}: {given} {problem}; use paths inside the dataset, or set path")


def _names_of_yaml(values: dict[str, Any], file: Path) -> tuple[str, ...]:
    names, count = values.get("names"), values.get("nc")
    if isinstance(names, dict):
        if sorted(names) != sorted(map(str, range(len(names)))):
            raise InputError(f"{file}: names has the numbers {list(names)[:10]}, expected 0 to {len(names) - 1}")
        names = [names[str(number)] for number in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise InputError(
            f"{file}: names is {str(names)[:80]}, expected a list of class names, or a mapping from numbers"
        )
    if count is not None and count != str(len(names)):
        raise InputError(f"{file}: nc is {str(count)[:80]}, but names has {len(names)}; correct one of them")
    return checked_names(names, file)


def _entries_in(folder: Path) -> dict[str | None, tuple[Path, ...]]:
    """Find image folders by split in a dataset without data.yaml; empty if the folder is not a dataset."""
    if not folder.is_dir():
        return {}
    labels, images = folder / "labels", folder / "images"
    if labels.is_dir() and images.is_dir():
        splits = splits_in(child.name for child in images.iterdir() if child.is_dir())
        if splits:
            return {split: (images / split,) for split in splits}
        return {None: (images,)} if _has_labels(labels) else {}
    entries: dict[str | None, tuple[Path, ...]] = {}
    for split in splits_in(child.name for child in folder.iterdir() if child.is_dir()):
        inside = folder / split
        if (inside / "labels").is_dir() and (inside / "images").is_dir():
            entries[split] = (inside / "images",)
        elif _has_labels(inside):
            entries[split] = (inside,)
    if not entries and _has_labels(folder):
        return {None: (folder,)}
    return entries


def _has_labels(folder: Path) -> bool:
    """Return whether a folder has a text file named like an image beside it, or any text file in `labels`."""
    names = list(files_in(folder))
    stems = {os.path.splitext(name)[0] for name in names if is_image_name(name)}
    texts = {os.path.splitext(name)[0] for name in names if name.lower().endswith(".txt")}
    return bool(texts & stems) if folder.name != "labels" else bool(texts)

"""Find duplicate images in a dataset, by digests of their files and perceptual hashes of their pixels."""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from torch import Tensor
from torch.nn import functional as F

from retinanet.formats.findings import MAX_EXAMPLES, Finding, Severity, shortened

HASH_SIDE = 8  # a hash compares 8 x 8 pairs of neighbouring cells: 64 bits
# Of 64 bits. Measured on 160 photographs and microscope images: copies resized to a half or a third, or saved as JPEG
# with quality 60, differed by at most 3 bits. Of all other pairs, one differed by 4, and the rest by 12 or more.
MAX_DISTANCE = 3
MIN_CONTRAST = 8.0  # grey levels; hashes of flatter images are noise
MAX_GROUP = 1000  # images sharing one part of the hash; larger groups are a pattern of the dataset and are not compared


def difference_hash(image: Tensor) -> int | None:
    """Hash the coarse brightness pattern of an image; copies of a different size or quality have nearly the same hash.

    Each bit is set if a cell of a 9 x 8 grid is brighter than the one to its right ("dHash").

    Args:
        image: (C, H, W) uint8.

    Returns: 64 bits, or None if the image is too flat for a meaningful hash.
    """
    grey = image.float().mean(dim=0)
    cells = F.adaptive_avg_pool2d(grey[None, None], (HASH_SIDE, HASH_SIDE + 1))[0, 0]
    if (cells.max() - cells.min()).item() < MIN_CONTRAST:
        return None
    bits = (cells[:, :-1] > cells[:, 1:]).flatten().tolist()
    return sum(1 << position for position, bit in enumerate(bits) if bit)


def groups_of_equals(digests: Sequence[bytes | None]) -> list[list[int]]:
    """Group the indices of images whose files have the same content; None is never equal."""
    by_digest: dict[bytes, list[int]] = defaultdict(list)
    for index, digest in enumerate(digests):
        if digest is not None:
            by_digest[digest].append(index)
    return [group for group in by_digest.values() if len(group) > 1]


def near_pairs(hashes: Sequence[int | None]) -> list[tuple[int, int]]:
    """Find all pairs (i, j), i < j, of images whose hashes differ in at most MAX_DISTANCE bits.

    A hash is cut into MAX_DISTANCE + 1 parts. At least one part of a pair is equal, so only images that share a part
    are compared.
    """
    known = [(index, value) for index, value in enumerate(hashes) if value is not None]
    pairs = {
        (first, second)
        for group in _sharing_a_part(known)
        for (first, one), (second, other) in combinations(group, 2)
        if (one ^ other).bit_count() <= MAX_DISTANCE
    }
    return sorted(pairs)


def _sharing_a_part(known: Sequence[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    bits = HASH_SIDE * HASH_SIDE // (MAX_DISTANCE + 1)
    for part in range(MAX_DISTANCE + 1):
        groups: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for index, value in known:
            groups[value >> (part * bits) & ((1 << bits) - 1)].append((index, value))
        yield from (group for group in groups.values() if 1 < len(group) <= MAX_GROUP)


def find_duplicates(
    paths: Mapping[str, Sequence[str]], digests: Sequence[bytes | None], hashes: Sequence[int | None]
) -> list[Finding]:
    """Report images with the same, or nearly the same, content, within and across splits.

    Args:
        paths: paths of the images of each split, "train" and "val".
        digests, hashes: of all images, split by split.
    """
    all_paths = [path for split in paths.values() for path in split]
    split_of = [split for split, of_split in paths.items() for _ in of_split]
    equal = groups_of_equals(digests)
    copies = {index for group in equal for index in group[1:]}  # the first of a group represents all
    pairs = near_pairs([None if index in copies else value for index, value in enumerate(hashes)])
    findings = []
    for groups, is_equal in ((equal, True), (pairs, False)):
        across = [group for group in groups if len({split_of[index] for index in group}) > 1]
        # A file with several ids in one split is reported when annotations are read.
        within = [
            group
            for group in groups
            if group not in across and len({os.path.realpath(all_paths[index]) for index in group}) > 1
        ]
        findings += [_finding(some, all_paths, is_equal, some is across) for some in (across, within) if some]
    return findings


def _finding(groups: Sequence[Sequence[int]], paths: Sequence[str], is_equal: bool, is_leak: bool) -> Finding:
    images = len({index for group in groups for index in group})
    what = "the same content" if is_equal else "nearly the same content"
    examples = shortened([" = ".join(paths[index] for index in group[:MAX_EXAMPLES]) for group in groups])
    if is_leak:
        kind = "val_is_train" if is_equal else "val_resembles_train"
        message = (
            f"{images} images in the training and validation sets have {what}: the scores will be too high; use other "
            "images for validation"
        )
        if not is_equal:
            message += ", and keep images of one scene in the same set (data.val_group)"
        return Finding("warning", kind, "data.val", message, examples)
    message = f"{images} images have {what} as another image: their objects count several times; remove the copies"
    severity: Severity = "warning" if is_equal else "note"
    return Finding(severity, "duplicate_images" if is_equal else "similar_images", "data", message, examples)

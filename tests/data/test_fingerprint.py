from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from retinanet.data.fingerprint import check_same_images, fingerprint
from retinanet.errors import InputError
from tests.helpers.datasets import dataset_of, image_record

PATH = Path("last.pt")


def images(*paths, height=48):
    return dataset_of([image_record(path, height=height, image_id=number) for number, path in enumerate(paths)])


BEFORE = images("old/a.jpg", "old/b.jpg", "old/c.jpg", "old/d.jpg")


def resume(now, *, unreadable=()):
    return check_same_images(PATH, fingerprint(BEFORE), now, unreadable=unreadable)


@pytest.mark.parametrize(
    "now",
    [BEFORE, images("new/a.jpg", "new/b.jpg", "new/c.jpg", "new/d.jpg"), images("a.png", "b.png", "c.png", "d.png")],
)
def test_same_images_may_be_in_another_folder_or_format(now):
    assert resume(now) is None


def test_other_objects_change_the_order_only_if_sampling_depends_on_them():
    uses = np.array([1.0, 1.0, 2.0, 1.5])
    before = fingerprint(BEFORE, uses)
    assert check_same_images(PATH, before, BEFORE, uses + 1e-12, unreadable=()) is None
    message = check_same_images(PATH, before, BEFORE, uses[::-1], unreadable=())
    assert message == (
        "last.pt: the objects in data.train changed, and data.sampling depends on them: the sample order changes "
        "from here on"
    )


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (images("a.jpg", "c.jpg"), "on 4 images, but data.train has 2: 2 are missing, 0 are new; resume with the same"),
        (images("a.jpg", "b.jpg", "c.jpg", "x/e.jpg"), r"has 4: 1 are missing, 1 are new \(such as x/e\.jpg\); resume"),
        (images("a.jpg", "b.jpg", "c.jpg", "d.jpg", "x/d.jpg"), "has 5: 0 are missing, 1 are new"),
        (images("a.jpg", "b.jpg", "c.jpg", "c.jpg"), "has 4: 1 are missing, 1 are new"),
    ],
)
def test_other_images_are_refused(now, message):
    with pytest.raises(InputError, match=rf"^last\.pt: was trained {message}|^last\.pt: .* data\.train {message}"):
        resume(now)


def test_images_may_be_removed_once_some_could_not_be_read():
    # The run stopped at the second unreadable image; the user found a third.
    assert resume(images("a.jpg"), unreadable=["old/b.jpg", "old/c.jpg"]) == (
        "last.pt: data.train now lacks 3 of the 4 images it had, 2 of them recorded as unreadable: the sample order "
        "changes from here on"
    )
    with pytest.raises(InputError, match=r"1 are missing, 1 are new \(such as e\.jpg\)"):
        resume(images("a.jpg", "b.jpg", "c.jpg", "e.jpg"), unreadable=["old/d.jpg"])


@pytest.mark.parametrize("now", [images("b.jpg", "a.jpg", "c.jpg", "d.jpg"), replace(BEFORE, sizes=BEFORE.sizes + 1)])
def test_another_order_or_size_changes_the_sample_order(now):
    message = resume(now)
    assert "has the same images in a different order or with different sizes: the sample order changes" in message


def test_fingerprint_is_the_same_on_every_machine():
    # The name: printf a | b2sum -l 64, read as a signed little-endian integer.
    # The sizes 48 and 64, as 64-bit little-endian integers:
    # printf '\x30\0\0\0\0\0\0\0\x40\0\0\0\0\0\0\0' | b2sum -l 128
    found = fingerprint(images("some/folder/a.jpg"))
    assert found["names"].tolist() == [0x2F42665B399EF840]
    assert found["sizes"] == "1d9a36b49fb50990b3dbeb25a05c20c1"

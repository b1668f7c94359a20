from collections import Counter

import pytest
import torch

from retinanet.data.sampler import PlannedImage
from retinanet.data.transforms.partners import MAX_REPLACEMENTS, Partners
from retinanet.errors import InputError
from tests.helpers.samples import grey_sample, partners_of


def drawn(planned, *, num_images=30, seed=0, count=5, damaged=()):
    """Indices that are drawn for a planned image, and its partners."""
    read = []

    def reading(index):
        if index in damaged:
            raise InputError(f"{index}.png: damaged")
        read.append(index)
        return grey_sample(2, 2, [])

    partners = Partners(reading, num_images, planned, seed=seed)
    for _ in range(count):
        partners.draw()
    return read, partners.unreadable


def planned(index=3, epoch=1, repeat=0):
    return PlannedImage(index, epoch, 48, 64, (64, 64), (64, 64), repeat)


def test_partners_depend_on_seed_epoch_image_and_repeat_alone():
    torch.manual_seed(1)
    first, _ = drawn(planned())
    torch.manual_seed(2)
    assert drawn(planned()._replace(shorter=99, padded_shape=(96, 96)))[0] == first
    others = [drawn(planned(4)), drawn(planned(epoch=2)), drawn(planned(repeat=1)), drawn(planned(), seed=1)]
    assert all(other != first for other, _ in others)


def test_every_other_image_is_drawn_equally_often():
    counts = Counter(drawn(planned(epoch=0), num_images=5, count=4000)[0])
    assert set(counts) == {0, 1, 2, 4}
    assert min(counts.values()) > 850 and max(counts.values()) < 1150  # mean 1000, standard deviation 27


@pytest.mark.parametrize(("num_images", "expected"), [(1, set()), (2, {0})])
def test_few_images(num_images, expected):
    assert set(drawn(planned(index=num_images - 1), num_images=num_images)[0]) == expected


def test_unreadable_partner_is_replaced_by_the_next_and_recorded():
    whole, none = drawn(planned(), count=20)
    assert none == []
    damaged = {whole[0], whole[3]}
    read, unreadable = drawn(planned(), count=10, damaged=damaged)
    assert read == [index for index in whole if index not in damaged][:10]  # the same images in the same order
    assert unreadable[0] == (whole[0], 1, whole[1], f"{whole[0]}.png: damaged")
    assert {entry.index for entry in unreadable} <= damaged


def test_gives_up_when_none_can_be_read():
    partners = partners_of(*[None] * 50, planned=planned(index=0))
    assert partners.draw() is None
    assert len(partners.unreadable) == 1 + MAX_REPLACEMENTS
    assert {entry.replaced_by for entry in partners.unreadable} == {0}  # the image is used alone

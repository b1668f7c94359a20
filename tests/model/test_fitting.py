import pytest

from retinanet.config import AnchorConfig
from retinanet.errors import InputError
from retinanet.model.fitting import check_fits
from tests.helpers.models import model_config

RGB = (103.53, 116.28, 123.675)


@pytest.mark.parametrize(
    ("trained", "now", "lines"),
    [
        ({"name": "resnet50"}, {}, ["model.backbone.name=resnet50  (now resnet10_half)"]),
        ({"norm_eps": 0.0}, {}, ["model.backbone.norm_eps=0.0  (now 1.0e-05)"]),
        ({"channels": 64}, {"channels": 128}, ["model.channels=64  (now 128)"]),
        (
            {"name": "resnet50", "stride_in_1x1": True, "p6_from": "p5"},
            {"name": "resnet50"},
            ["model.backbone.stride_in_1x1=true  (now false)", "model.p6_from=p5  (now c5)"],
        ),
        (
            {"head_norm": "group", "head_conv_bias": False, "head_convs": 2},
            {},
            [
                "model.head_convs=2  (now 4)",
                "model.head_norm=group  (now none)",
                "model.head_conv_bias=false  (now true)",
            ],
        ),
        ({"norm": "frozen"}, {"norm": "group"}, ["model.backbone.norm=frozen  (now group)"]),
        (
            {"anchors": AnchorConfig(rounding="torchvision")},
            {},
            ["model.anchors.rounding=torchvision  (now none)"],
        ),
        (
            {"std": (1.0, 1.0, 1.0)},
            {},
            ["model.std=[1.0, 1.0, 1.0]  (now [58.395, 57.12, 57.375])"],
        ),
        (
            {"std": (1.0, 1.0, 1.0), "mean": RGB},
            {"mean": RGB[::-1]},
            [
                "model.mean=[103.53, 116.28, 123.675]  (now [123.675, 116.28, 103.53])",
                "model.std=[1.0, 1.0, 1.0]  (now [58.395, 57.12, 57.375])",
            ],
        ),
    ],
)
def test_all_keys_that_must_change_are_listed_in_one_error(trained, now, lines):
    with pytest.raises(InputError) as error:
        check_fits(model_config(**now), model_config(**trained), "best.pt")
    first, *others = str(error.value).splitlines()
    assert first.startswith("best.pt: ") and "train.init_from" in first
    assert [line.strip() for line in others] == lines


@pytest.mark.parametrize(
    ("trained", "now"),
    [
        ({}, {}),
        ({"norm": "frozen"}, {"norm": "sync"}),
        ({"prior": 0.01}, {"prior": 0.2}),
        ({}, {"anchors": AnchorConfig(rounding="torchvision")}),
        ({}, {"anchors": AnchorConfig(offset=0.5, scales=(1.0,))}),
        ({}, {"mean": (100.0, 100.0, 100.0), "std": (40.0, 50.0, 60.0)}),
        ({}, {"class_activation": "softmax"}),
    ],
)
def test_differences_that_fine_tuning_can_bridge_are_accepted(trained, now):
    check_fits(model_config(**now), model_config(**trained), "best.pt")

"""The structure of timm networks: strides, image sizes, stages, and the reasons why networks are rejected."""

import sys

import pytest
import torch

from retinanet.errors import InputError
from retinanet.model.timm_layout import find_layout, small_side, timm_library

timm = pytest.importorskip("timm", reason="needs timm")


@pytest.mark.parametrize(
    ("name", "strides", "divisor", "channels_last"),
    [
        ("test_resnet", [2, 4, 8, 16, 32], 1, False),
        ("test_convnext", [4, 8, 16, 32], 32, False),  # rounds down
        ("mobilenetv4_conv_small_035", [2, 4, 8, 16, 32], 1, False),
        ("hrnet_w18_small", [2, 4, 8, 16, 32], 32, False),  # adds maps of different strides
        ("vgg11", [1, 2, 4, 8, 16, 32], 32, False),
        ("swin_tiny_patch4_window7_224", [4, 8, 16, 32], 8, True),  # the stem rounds down, the rest up
        ("test_mambaout", [4, 8, 16, 32], 1, True),
        pytest.param("maxvit_pico_rw_256", [2, 4, 8, 16, 32], 256, False, marks=pytest.mark.slow),  # windows of 8 x 32
    ],
)
def test_strides_divisor_and_order_of_dimensions(name, strides, divisor, channels_last):
    layout = find_layout(name, 3)
    assert list(layout.channels) == strides
    assert (layout.divisor, layout.channels_last) == (divisor, channels_last)


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_mambaout"])
def test_divisor_is_the_smallest_that_fits_the_anchors(name):
    """Compare with the sizes of real maps for many sizes of images."""
    layout = find_layout(name, 3)
    network = timm.create_model(name, features_only=True, out_indices=list(layout.indices.values()), in_chans=3).eval()

    def fits(height, width):
        with torch.no_grad():
            maps = network(torch.zeros(1, 3, height, width))
        sizes = [feature.shape[1:3] if layout.channels_last else feature.shape[2:] for feature in maps]
        return sizes == [(-(-height // stride), -(-width // stride)) for stride in layout.channels]

    assert all(fits(layout.divisor * k, layout.divisor * (k + 1)) for k in range(max(1, 32 // layout.divisor), 5))
    if layout.divisor > 1:
        assert not fits(layout.divisor * 3 // 2, layout.divisor * 3)


def test_stages_of_a_resnet_are_its_stem_and_layers():
    stages = find_layout("test_resnet", 3).stages
    prefixes = [{name.split(".")[0] for name in names} for names in stages.values()]
    assert prefixes == [{"conv1", "bn1"}, {"layer1"}, {"layer2"}, {"layer3"}, {"layer4"}]


def test_every_map_depends_on_all_earlier_stages_of_a_chain():
    layout = find_layout("test_convnext", 3)
    before = frozenset()
    for stride, names in layout.stages.items():
        before |= names
        assert layout.reached[stride] == before


def test_layout_does_not_depend_on_the_autograd_mode_of_the_caller():
    find_layout.cache_clear()
    with torch.inference_mode():
        inside = find_layout("test_resnet", 3)
    find_layout.cache_clear()
    assert inside == find_layout("test_resnet", 3)


def test_building_a_layout_leaves_the_random_numbers_of_the_run_unchanged():
    find_layout.cache_clear()
    before = torch.get_rng_state()
    find_layout("test_convnext", 3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("convnxt_tiny", r"has no network 'convnxt_tiny'; did you mean convnext_tiny"),
        ("%$", r"timm\.list_models\(\) lists all names"),
        ("vit_tiny_patch16_224", "strides 16, 16, 16"),
        ("levit_128s", "strides 16, 32, 64"),
        ("sequencer2d_s", "strides 7, 14, 14"),
        ("visformer_tiny", "at no image size.*96x160 pixels, it fails.*224|112"),
        pytest.param(
            "inception_v3",
            "at no image size.*96x160 pixels, the maps have sizes 45x77, 20x36, 9x17, 4x8, 1x3",
            marks=pytest.mark.slow,
        ),
        ("mixer_s32_224", "cannot be a backbone"),
    ],
)
def test_other_networks_are_rejected_with_the_reason(name, reason):
    with pytest.raises(InputError, match=reason) as caught:
        find_layout(name, 3)
    assert str(caught.value).startswith("model.backbone.name: ")


def test_missing_package_is_reported_with_the_command_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=r"pip install retinanet\[timm\]"):
        timm_library()


@pytest.mark.parametrize(("divisor", "side"), [(1, 64), (32, 64), (24, 72), (256, 256)])
def test_small_side_is_a_multiple_of_the_divisor(divisor, side):
    assert small_side(divisor) == side

"""Backbones from timm: features, frozen parts, stages and settings that a network does not support."""

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.testing import assert_close

from retinanet.config import TimmConfig
from retinanet.errors import InputError
from retinanet.model.backbone import build_backbone
from retinanet.model.norm import SyncBatchNorm, use_cuda_sync_norms_
from retinanet.model.timm_backbone import TimmBackbone
from tests.helpers.backbones import IMAGES, saved_bytes, spread_out

timm = pytest.importorskip("timm", reason="needs timm")


def backbone(name="test_resnet", *, norm="frozen", frozen_stages=0, **settings):
    torch.manual_seed(0)
    return TimmBackbone(name, norm=norm, frozen_stages=frozen_stages, **settings)


def trained_names(module):
    return {key for key, parameter in module.network.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet", "test_mambaout"])
def test_features_have_the_declared_channels_and_strides(name):
    module = backbone(name)
    features = module(IMAGES)
    assert [tuple(feature.shape) for feature in features] == [
        (2, count, 64 // stride, 96 // stride) for count, stride in zip(module.out_channels, (8, 16, 32), strict=True)
    ]


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_mambaout"])
@pytest.mark.parametrize("norm", ["frozen", "batch", "sync"])
def test_features_equal_those_of_the_whole_network(name, norm):
    """`forward_intermediates` belongs to the classifier, which timm does not take apart."""
    whole = spread_out(timm.create_model(name)).eval()
    module = backbone(name, norm=norm).eval()
    state = {key.replace("stages.", "stages_", 1): value for key, value in whole.state_dict().items()}
    module.network.load_state_dict({key: state[key] for key in module.network.state_dict()})
    with torch.no_grad():
        maps = whole.forward_intermediates(IMAGES, intermediates_only=True, output_fmt="NCHW")
        assert_close(module(IMAGES), maps[-3:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("out_strides", [(8, 16, 32), (4, 8, 16, 32), (16, 32)])
def test_outputs_have_the_requested_strides(out_strides):
    module = backbone("test_convnext", out_strides=out_strides)
    assert module.strides == out_strides
    assert [IMAGES.shape[-1] // feature.shape[-1] for feature in module(IMAGES)] == list(out_strides)


def test_stride_without_a_feature_map_is_rejected():
    with pytest.raises(InputError, match="test_convnext has no feature map of stride 2; its maps have strides 4, 8"):
        backbone("test_convnext", out_strides=(2, 4))


@pytest.mark.parametrize("channels", [1, 4])
def test_images_may_have_other_numbers_of_channels(channels):
    assert len(backbone(in_channels=channels)(torch.randn(1, channels, 64, 64))) == 3


def test_sizes_that_are_not_multiples_of_the_divisor_are_rejected():
    module = backbone("test_convnext")
    with pytest.raises(InputError, match=r"padded to 64x80 pixels.*multiples of 32; set data\.resize\.divisor=32"):
        module(torch.zeros(1, 3, 64, 80))


@pytest.mark.parametrize(
    ("frozen_stages", "frozen"),
    [
        (0, set()),
        (1, {"conv1", "bn1"}),
        (2, {"conv1", "bn1", "layer1"}),
        (4, {"conv1", "bn1", "layer1", "layer2", "layer3"}),
        (5, {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"}),
    ],
)
def test_step_changes_exactly_the_trainable_tensors(frozen_stages, frozen):
    # By default, the last norm of each block is zero, and so are the gradients before it.
    module = spread_out(backbone(norm="batch", frozen_stages=frozen_stages)).train()
    before = {key: value.clone() for key, value in module.network.state_dict().items()}
    features = module(IMAGES)
    if frozen_stages < 5:
        sum(feature.square().mean() for feature in features).backward()
        torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.1).step()
    same = {key for key, value in module.network.state_dict().items() if torch.equal(value, before[key])}
    assert same == {key for key in before if key.split(".")[0] in frozen}


def test_frozen_norms_keep_their_tensors_while_other_weights_are_trained():
    module = backbone(norm="frozen").train()
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    assert norms and not any(part.training for part in norms)
    assert not any(parameter.requires_grad for part in norms for parameter in part.parameters())
    assert trained_names(module) == {
        key for key, value in module.network.named_parameters() if value.ndim > 1 or ".fc" in key
    }


def test_layer_norms_are_trained_although_batch_norms_are_frozen():
    module = backbone("test_convnext", norm="frozen")
    assert trained_names(module) == {key for key, _ in module.network.named_parameters()}


def test_stage_without_a_feature_map_cannot_be_frozen():
    with pytest.raises(InputError, match=r"frozen_stages is 1.*no feature map of stride 2.*set one of 0, 2, 3, 4, 5"):
        backbone("test_convnext", frozen_stages=1)


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "hrnet_w18_small"])
def test_stages_contain_each_used_parameter_once_and_gradients_reach_exactly_these(name):
    module = backbone(name, norm="batch")
    sum(feature.square().mean() for feature in module(IMAGES)).backward()
    with_gradient = {id(parameter) for parameter in module.parameters() if parameter.grad is not None}
    listed = [id(parameter) for stage in module.stages() for parameter in stage]
    assert len(listed) == len(set(listed)) and set(listed) == with_gradient
    assert with_gradient == {id(parameter) for parameter in module.parameters() if parameter.requires_grad}


def test_first_stage_contains_the_stem():
    module = backbone()
    assert {id(p) for p in module.stages()[0]} == {
        id(p) for part in (module.network.conv1, module.network.bn1) for p in part.parameters()
    }


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_synchronised_norms_keep_names_values_and_activations(name):
    plain, synchronised = spread_out(backbone(name, norm="batch")), spread_out(backbone(name, norm="sync"))
    assert list(plain.state_dict()) == list(synchronised.state_dict())
    norms = [part for part in synchronised.modules() if isinstance(part, _BatchNorm)]
    assert norms and all(isinstance(part, SyncBatchNorm) for part in norms)
    assert_close(synchronised.train()(IMAGES), plain.train()(IMAGES))  # in one process, their statistics are equal
    assert_close(dict(synchronised.state_dict()), dict(plain.state_dict()))


def test_frozen_stages_stay_in_evaluation_mode_with_the_synchronised_norms_of_cuda():
    module = backbone("test_resnet", norm="sync", frozen_stages=2)
    use_cuda_sync_norms_(module)
    module.train()
    assert isinstance(module.network.bn1, nn.SyncBatchNorm)
    training = {name for name, part in module.network.named_modules() if isinstance(part, _BatchNorm) and part.training}
    assert training == {
        name
        for name, part in module.network.named_modules()
        if isinstance(part, _BatchNorm) and part.weight.requires_grad
    }
    assert training and not any(name.startswith(("bn1", "layer1")) for name in training)


def test_checkpointing_saves_memory_and_keeps_the_gradients():
    plain, saving = backbone("test_convnext"), backbone("test_convnext", checkpoint_activations=True)
    gradients = []
    for module in (plain, saving):
        sum(feature.square().mean() for feature in module.train()(IMAGES)).backward()
        gradients.append([parameter.grad for parameter in module.parameters()])
    assert_close(*gradients, rtol=0, atol=0)
    assert saved_bytes(saving, IMAGES) < 0.7 * saved_bytes(plain, IMAGES)


def test_checkpointing_of_trained_batch_norms_is_rejected():
    with pytest.raises(InputError, match="statistics of its batch norms twice; set norm to frozen"):
        backbone(norm="batch", checkpoint_activations=True)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [1, 3])
def test_memory_format_is_that_of_the_weights(memory_format, channels):
    module = backbone(in_channels=channels)
    assert module.to(memory_format=memory_format).memory_format == memory_format


def test_config_builds_the_backbone_with_its_settings():
    module = build_backbone(
        TimmConfig(name="test_resnet", weights="none", norm="batch", frozen_stages=0), in_channels=3
    )
    assert isinstance(module, TimmBackbone) and module.name == "test_resnet"
    assert all(part.training for part in module.modules() if isinstance(part, nn.BatchNorm2d))

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from retinanet.model.head import RetinaNetHead
from retinanet.model.norm import GroupNorm

CHANNELS, NUM_ANCHORS, NUM_CLASSES = 32, 9, 4
SIZES = [(6, 8), (3, 4), (1, 2)]


def pyramid_of(batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, CHANNELS, *size, generator=generator) for size in SIZES]


def head_of(**settings):
    torch.manual_seed(0)
    return RetinaNetHead(CHANNELS, num_anchors=NUM_ANCHORS, num_classes=NUM_CLASSES, **settings)


@pytest.mark.parametrize("norm", ["none", "group"])
@pytest.mark.parametrize("num_convs", [0, 2, 4])
def test_outputs_have_one_row_per_anchor(norm, num_convs):
    class_logits, box_deltas = head_of(norm=norm, num_convs=num_convs)(pyramid_of())
    counts = [height * width * NUM_ANCHORS for height, width in SIZES]
    assert [tuple(level.shape) for level in class_logits] == [(2, count, NUM_CLASSES) for count in counts]
    assert [tuple(level.shape) for level in box_deltas] == [(2, count, 4) for count in counts]


def test_convolutions_before_norms_may_have_no_bias():
    """The last convolution of each subnet, which no norm follows, always has one."""
    head = head_of(norm="group", conv_bias=False, num_convs=2)
    has_bias = [layer.bias is not None for layer in head.modules() if isinstance(layer, nn.Conv2d)]
    assert has_bias == [False, False, True] * 2


def test_rows_are_in_the_order_of_the_anchors():
    """The order is (y, x, anchor), as in `AnchorGenerator`."""
    head = head_of(num_convs=0)
    pyramid = pyramid_of(batch=1)
    for output, last, values in zip(head(pyramid), (head.class_subnet, head.box_subnet), (NUM_CLASSES, 4), strict=True):
        plain = last(pyramid[0])[0]  # (anchors * values, height, width)
        for y, x, anchor in [(0, 0, 0), (0, 1, 3), (2, 5, 8), (5, 7, 1)]:
            row = (y * SIZES[0][1] + x) * NUM_ANCHORS + anchor
            assert_close(output[0][0, row], plain[anchor * values : (anchor + 1) * values, y, x])


@pytest.mark.parametrize("prior", [0.01, 0.2])
def test_initial_scores_are_near_the_prior(prior):
    class_logits, box_deltas = head_of(prior=prior)(pyramid_of())
    scores = torch.cat(class_logits, 1).sigmoid()
    assert_close(scores, torch.full_like(scores, prior), rtol=0.1, atol=0)
    assert torch.cat(box_deltas, 1).abs().max() < 0.1


@pytest.mark.parametrize("prior", [0.01, 0.2])
def test_initial_probabilities_of_a_softmax_share_the_prior(prior):
    class_logits, _ = head_of(prior=prior, background_logit=True)(pyramid_of())
    counts = [height * width * NUM_ANCHORS for height, width in SIZES]
    assert [tuple(level.shape) for level in class_logits] == [(2, count, NUM_CLASSES + 1) for count in counts]
    probabilities = torch.cat(class_logits, 1).softmax(-1)
    expected = torch.tensor([prior / NUM_CLASSES] * NUM_CLASSES + [1 - prior]).expand_as(probabilities)
    assert_close(probabilities, expected, rtol=0.1, atol=0)


def test_bias_of_a_softmax_equals_a_value_computed_by_hand():
    # 4 classes and a prior of 0.2: background has e^b = 4 * 0.8 / 0.2 = 16, a class 1 / (4 + 16) = 0.2 / 4.
    bias = head_of(prior=0.2, background_logit=True).class_subnet[-1].bias
    assert_close(bias.view(NUM_ANCHORS, -1), torch.tensor([0.0, 0, 0, 0, 2.7725887]).repeat(NUM_ANCHORS, 1))


def test_initial_weights_have_std_0_01_and_biases_are_zero():
    for name, parameter in head_of(norm="group").named_parameters():
        if parameter.ndim == 4:
            assert_close(parameter.std().item(), 0.01, rtol=0.05, atol=0)
            assert parameter.mean().abs() < 5e-4, name
        elif name.endswith("bias") and name != "class_subnet.12.bias":
            assert (parameter == 0).all(), name


def test_levels_share_weights_and_subnets_do_not():
    head = head_of()
    pyramid = pyramid_of()
    separate = [head([level]) for level in pyramid]
    for part, joint in enumerate(head(pyramid)):
        assert_close([outputs[part][0] for outputs in separate], joint)
    first, second = head.class_subnet[0].weight, head.box_subnet[0].weight
    assert first.shape == second.shape and not torch.equal(first, second)


def test_class_logits_in_float32_are_exact_for_the_last_feature_map():
    head = head_of(num_convs=1, class_precision="fp32")
    last = head.class_subnet[-1]
    nn.init.normal_(last.weight, std=0.1)
    pyramid = pyramid_of()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        class_logits, box_deltas = head(pyramid)
        features = head.class_subnet[:-1](pyramid[0])
        plain = nn.functional.conv2d(features, last.weight, last.bias, padding=1)
    assert features.dtype == plain.dtype == torch.bfloat16
    assert [level.dtype for level in class_logits] == [torch.float32] * 3
    assert [level.dtype for level in box_deltas] == [torch.bfloat16] * 3
    exact = nn.functional.conv2d(features.double(), last.weight.double(), last.bias.double(), padding=1)
    exact = exact.permute(0, 2, 3, 1).reshape(class_logits[0].shape)
    assert_close(class_logits[0].double(), exact, rtol=1e-5, atol=1e-5)
    # In bfloat16, few of the 3456 random logits remain distinct.
    assert class_logits[0].unique().numel() > 0.99 * exact.numel() > 2 * plain.unique().numel()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_class_precision_applies_to_weights_of_any_dtype(dtype):
    pyramid = [level.to(dtype) for level in pyramid_of()]
    head, plain = head_of(class_precision="fp32").to(dtype), head_of().to(dtype)
    plain.load_state_dict(head.state_dict())
    class_logits, _ = head(pyramid)
    assert {level.dtype for level in class_logits} == {torch.promote_types(dtype, torch.float32)}
    tolerance = 2**-7 if dtype == torch.bfloat16 else 0
    assert_close(class_logits, [level.to(class_logits[0].dtype) for level in plain(pyramid)[0]], rtol=tolerance, atol=0)
    sum(level.sum() for level in class_logits).backward()
    assert head.class_subnet[-1].weight.grad.dtype == dtype and (head.class_subnet[-1].weight.grad != 0).all()


def test_norm_follows_every_convolution_except_the_last():
    def layer_types(head):
        return [type(layer) for layer in head.class_subnet]

    assert layer_types(head_of(num_convs=2)) == [nn.Conv2d, nn.ReLU, nn.Conv2d, nn.ReLU, nn.Conv2d]
    block = [nn.Conv2d, GroupNorm, nn.ReLU]
    assert layer_types(head_of(num_convs=2, norm="group")) == [*block, *block, nn.Conv2d]


@pytest.mark.parametrize("norm", ["batch_per_level", "sync_per_level"])
def test_levels_share_convolutions_but_not_batch_norms(norm):
    """Each level equals the shared convolutions with a batch norm of its own, one after the other."""
    head, pyramid = head_of(num_convs=2, norm=norm, num_levels=3).train(), pyramid_of()
    for subnet in (head.class_subnet, head.box_subnet):
        for norms in (layer for layer in subnet if isinstance(layer, nn.ModuleList)):
            for number, one in enumerate(norms, start=1):
                nn.init.constant_(one.weight, number)
    class_logits, box_deltas = head(pyramid)
    for outputs, subnet, values in ((class_logits, head.class_subnet, NUM_CLASSES), (box_deltas, head.box_subnet, 4)):
        convolutions = [layer for layer in subnet if isinstance(layer, nn.Conv2d)]
        assert [layer.bias is None for layer in convolutions] == [True, True, False]
        for level, features in enumerate(pyramid):
            x = features
            for convolution in convolutions[:-1]:
                own = nn.BatchNorm2d(CHANNELS)
                nn.init.constant_(own.weight, level + 1)
                x = own(convolution(x)).relu()
            expected = convolutions[-1](x).permute(0, 2, 3, 1).reshape(2, -1, values)
            assert_close(outputs[level], expected, rtol=1e-4, atol=1e-5)


def test_running_statistics_of_a_level_come_from_that_level_alone():
    head, pyramid = head_of(num_convs=1, norm="batch_per_level", num_levels=3).train(), pyramid_of()
    head(pyramid)
    convolution, norms = head.box_subnet[0], head.box_subnet[1]
    for level, norm in enumerate(norms):
        # The running mean starts at 0 and has a momentum of 0.1.
        assert_close(norm.running_mean, 0.1 * convolution(pyramid[level]).mean((0, 2, 3)), rtol=1e-4, atol=1e-6)
        assert norm.num_batches_tracked == 1

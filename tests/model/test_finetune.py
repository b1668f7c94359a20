import dataclasses

import pytest
import torch
from torch.testing import assert_close

from retinanet.config import AnchorConfig
from retinanet.errors import InputError
from retinanet.model.finetune import LoadedWeights, TrainedWeights, load_for_finetuning
from retinanet.model.retinanet import build_model
from tests.helpers.models import model_config

TRAINED = ["cat", "dog", "bird"]
IMAGES = torch.randint(256, (2, 3, 64, 96), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
SIZES = torch.tensor([[64, 96]] * 2)
# resnet10_half: a convolution and four tensors of its norm, 12 times; five convolutions of the pyramid and P6, P7, with
# biases, 8; two convolutions with biases in each subnet.
NUM_TENSORS = 12 * 5 + 8 * 2 + 2 * 2 * 2
ALL_TAKEN = LoadedWeights(f"all {NUM_TENSORS} tensors", "nothing", "nothing")


def config(**settings):
    return model_config(**{"norm": "frozen", "channels": 64, "head_convs": 1} | settings)


def detector(class_names, seed, **settings):
    torch.manual_seed(seed)
    return build_model(config(**settings), len(class_names)).eval()


def trained(class_names=TRAINED, **settings):
    """Return trained weights and their model, whose last layers differ clearly from initial values."""
    model = detector(class_names, seed=1, **settings)
    with torch.no_grad():
        for subnet in (model.head.class_subnet, model.head.box_subnet):
            torch.nn.init.normal_(subnet[-1].weight, std=0.1)
            torch.nn.init.normal_(subnet[-1].bias)
    weights = TrainedWeights(
        source="old/best.pt", state=model.state_dict(), model=config(**settings), class_names=tuple(class_names)
    )
    return weights, model


def load(model, content, class_names, **settings):
    return load_for_finetuning(model, config(**settings), content, class_names)


def outputs(model):
    """Return logits (B, A, K) and box deltas (B, A, 4) of all levels."""
    with torch.no_grad():
        head_outputs = model(IMAGES, SIZES)
    return torch.cat(head_outputs.class_logits, 1), torch.cat(head_outputs.box_deltas, 1)


def test_same_classes_load_every_weight():
    content, old = trained()
    new = detector(TRAINED, seed=2)
    assert load(new, content, TRAINED) == ALL_TAKEN
    for name, value in new.state_dict().items():
        assert torch.equal(value, old.state_dict()[name]), name


@pytest.mark.parametrize(
    "class_names", [["dog", "cat", "bird"], ["bird", "fish", "cat"], ["dog"], ["a", "bird", "b", "c", "cat", "d"]]
)
def test_shared_classes_keep_their_logits_and_new_ones_their_initial_rows(class_names):
    content, old = trained()
    new = detector(class_names, seed=2)
    initial_layer = new.head.class_subnet[-1]
    initial_weight, initial_bias = initial_layer.weight.clone(), initial_layer.bias.clone()
    report = load(new, content, class_names)
    (old_logits, old_deltas), (logits, deltas) = outputs(old), outputs(new)
    assert torch.equal(deltas, old_deltas)
    for index, name in enumerate(class_names):
        if name in TRAINED:
            assert_close(logits[..., index], old_logits[..., TRAINED.index(name)], rtol=1e-4, atol=1e-5)
        else:  # the row of anchor a and class k is a * K + k
            rows = [anchor * len(class_names) + index for anchor in range(9)]
            assert torch.equal(initial_layer.weight[rows], initial_weight[rows])
            assert torch.equal(initial_layer.bias[rows], initial_bias[rows])
    assert report.taken.startswith(f"{NUM_TENSORS - 2} of {NUM_TENSORS} tensors, and ")
    assert report.taken.endswith(" by name in head.class_subnet.2")
    new_names, dropped = set(class_names) - set(TRAINED), set(TRAINED) - set(class_names)
    assert all(name in report.taken for name in set(class_names) & set(TRAINED))
    assert all(name in report.reinitialised for name in new_names) and (new_names or report.reinitialised == "nothing")
    assert all(name in report.left_over for name in dropped) and (dropped or report.left_over == "nothing")


def test_background_row_of_a_softmax_is_loaded_with_the_classes():
    content, old = trained(class_activation="softmax")
    new = detector(["fish", "bird", "cat", "worm"], seed=2, class_activation="softmax")
    report = load(new, content, ["fish", "bird", "cat", "worm"], class_activation="softmax")
    assert report == LoadedWeights(
        f"{NUM_TENSORS - 2} of {NUM_TENSORS} tensors, and 2 classes (bird, cat) by name in head.class_subnet.2",
        "2 classes (fish, worm) in head.class_subnet.2",
        "1 class (dog)",
    )
    (old_logits, _), (logits, _) = outputs(old), outputs(new)
    assert old_logits.shape[-1] == 4 and logits.shape[-1] == 5
    assert_close(logits[..., [1, 2, 4]], old_logits[..., [2, 0, 3]], rtol=1e-4, atol=1e-5)
    same = detector(TRAINED, seed=2, class_activation="softmax")
    assert load(same, content, TRAINED, class_activation="softmax") == ALL_TAKEN
    assert torch.equal(outputs(same)[0], old_logits)


@pytest.mark.parametrize("before", ["sigmoid", "softmax"])
@pytest.mark.parametrize("class_names", [TRAINED, ["cat", "dog"], ["cat", "dog", "bird", "fish"]])
def test_different_class_activation_keeps_the_initial_class_layer(class_names, before):
    """The number of logits may even be equal: 4 classes with sigmoid, or 3 with softmax and background."""
    now = {"sigmoid": "softmax", "softmax": "sigmoid"}[before]
    content, _ = trained(class_activation=before)
    new = detector(class_names, seed=2, class_activation=now)
    initial = {name: value.clone() for name, value in new.state_dict().items()}
    report = load(new, content, class_names, class_activation=now)
    change = {"sigmoid": "removed", "softmax": "added"}[now]
    assert report.reinitialised == f"head.class_subnet.2, because the background logit was {change}"
    for name, value in new.state_dict().items():
        is_last = name.startswith("head.class_subnet.2.")
        assert torch.equal(value, initial[name] if is_last else content.state[name]), name


def test_no_shared_class_keeps_the_initial_class_layer():
    content, _ = trained()
    new = detector(["fish", "worm"], seed=2)
    before = {name: value.clone() for name, value in new.state_dict().items()}
    report = load(new, content, ["fish", "worm"])
    assert "0 classes by name" in report.taken and report.reinitialised.startswith("2 classes (fish, worm)")
    for name, value in new.state_dict().items():
        is_last = name.startswith("head.class_subnet.2.")
        assert torch.equal(value, before[name] if is_last else content.state[name]), name


@pytest.mark.parametrize(
    "anchors",
    [
        AnchorConfig(scales=(1.0,)),  # fewer
        AnchorConfig(aspect_ratios=(2.0, 1.0, 0.5)),  # in a different order
        AnchorConfig(scales=(1.0, 1.4, 2.0)),
    ],
)
@pytest.mark.parametrize("class_names", [TRAINED, ["cat", "fish"]])
def test_anchors_of_different_shape_or_order_keep_both_initial_last_layers(anchors, class_names):
    content, _ = trained()
    new = detector(class_names, seed=2, anchors=anchors)
    before = {name: value.clone() for name, value in new.state_dict().items()}
    report = load(new, content, class_names, anchors=anchors)
    assert report.taken == f"{NUM_TENSORS - 4} of {NUM_TENSORS} tensors"
    assert report.reinitialised == "head.class_subnet.2 and head.box_subnet.2, because the anchors are different"
    for name, value in new.state_dict().items():
        is_last = name.startswith(("head.class_subnet.2.", "head.box_subnet.2."))
        assert torch.equal(value, before[name] if is_last else content.state[name]), name


@pytest.mark.parametrize(
    "anchors",
    [AnchorConfig(sizes=(16, 32, 64, 128, 256)), AnchorConfig(offset=0.5), AnchorConfig(rounding="torchvision")],
)
def test_anchors_of_different_size_or_offset_load_every_weight(anchors):
    content, old = trained()
    new = detector(TRAINED, seed=2, anchors=anchors)
    assert load(new, content, TRAINED, anchors=anchors) == ALL_TAKEN
    assert torch.equal(outputs(new)[1], outputs(old)[1])


def test_frozen_batch_norm_loads_into_batch_norm_and_back():
    content, old = trained()
    trainable = detector(TRAINED, seed=2, norm="batch")
    assert load(trainable, content, TRAINED, norm="batch") == ALL_TAKEN
    assert_close(outputs(trainable), outputs(old), rtol=1e-3, atol=1e-3)
    content, _ = trained(norm="batch")
    assert load(detector(TRAINED, seed=2), content, TRAINED) == ALL_TAKEN


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"head_convs": 2},
            r"4 missing \(head.class_subnet.4.weight.* with a different shape \(head.*subnet.2.weight ",
        ),
        (
            {"channels": 32},
            r"0 missing, 0 unknown, .* with a different shape \(fpn.laterals.0.weight \(64, 64, 1, 1\), exp",
        ),
        ({"norm": "group"}, "24 unknown"),
    ],
)
@pytest.mark.parametrize("class_names", [TRAINED, ["cat", "fish"]])
def test_state_dict_of_a_different_network_is_rejected_and_nothing_changes(settings, message, class_names):
    content, _ = trained()
    content = dataclasses.replace(content, model=None)
    new = detector(class_names, seed=2, **settings)
    before = {name: value.clone() for name, value in new.state_dict().items()}
    with pytest.raises(InputError, match=message) as error:
        load(new, content, class_names, **settings)
    assert "old/best.pt" in str(error.value) and "model.*" in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in new.state_dict().items())


def test_missing_tensor_of_the_last_layer_is_rejected():
    content, _ = trained()
    del content.state["head.class_subnet.2.bias"]
    with pytest.raises(InputError, match=r"1 missing \(head.class_subnet.2.bias\)"):
        load(detector(["cat"], seed=2), content, ["cat"])


def test_weights_without_class_names_are_matched_by_position():
    """The classes have other names, which are ignored."""
    content, old = trained()
    content = dataclasses.replace(content, class_names=None, model=None)
    new = detector(["fish", "worm", "frog"], seed=2)
    report = load(new, content, ["fish", "worm", "frog"])
    assert report == ALL_TAKEN._replace(
        taken=f"all {NUM_TENSORS} tensors, the classes by position, because the weights do not name their classes"
    )
    assert torch.equal(outputs(new)[0], outputs(old)[0])


@pytest.mark.parametrize("has_background_slot", [False, True])
@pytest.mark.parametrize("class_names", [["a", "b"], ["a", "b", "c", "d"]])
def test_other_number_of_unnamed_classes_keeps_the_initial_class_layer(class_names, has_background_slot):
    """With a slot for background, three trained classes match two: the first slot is left over."""
    content, old = trained()
    content = dataclasses.replace(content, class_names=None, has_background_slot=has_background_slot)
    new = detector(class_names, seed=2)
    initial = new.head.class_subnet[-1].bias.clone()
    report = load(new, content, class_names)
    if has_background_slot and len(class_names) == 2:
        assert_close(outputs(new)[0], outputs(old)[0][..., 1:], rtol=1e-4, atol=1e-5)
        assert report.left_over == "1 class (the slot for background)" and report.reinitialised == "nothing"
    else:
        assert torch.equal(new.head.class_subnet[-1].bias, initial)
        assert "3 classes without names" in report.reinitialised


def test_counter_of_averaged_models_is_left_over():
    content, _ = trained()
    content.state["n_averaged"] = torch.tensor(5)
    assert load(detector(TRAINED, seed=2), content, TRAINED).left_over == "n_averaged"


@pytest.mark.parametrize("head_norm", ["none", "batch_per_level"])
def test_new_level_keeps_initial_values_and_others_are_loaded(head_norm):
    content, old = trained(head_norm=head_norm)
    new = detector(TRAINED, seed=2, head_norm=head_norm, levels="p2..p7")
    initial = {name: value.clone() for name, value in new.state_dict().items()}
    report = load(new, content, TRAINED, head_norm=head_norm, levels="p2..p7")
    assert report.reinitialised == "P2, which the weights do not have" and report.left_over == "nothing"
    pairs = [(new.fpn.laterals, old.fpn.laterals), (new.fpn.outputs, old.fpn.outputs)]
    if head_norm != "none":
        pairs += [(getattr(new.head, name)[1], getattr(old.head, name)[1]) for name in ("class_subnet", "box_subnet")]
    for ours, theirs in pairs:
        assert len(ours) == len(theirs) + 1
        assert_close(dict(ours[1:].state_dict()), dict(theirs.state_dict()), rtol=0, atol=0)
    loaded = new.state_dict()
    for name in ("fpn.laterals.0.weight", "fpn.outputs.0.weight"):
        assert torch.equal(loaded[name], initial[name])
    with torch.no_grad():
        logits, expected = (model(IMAGES, SIZES).class_logits for model in (new, old))
    assert_close(logits[1:], expected, rtol=0, atol=0)  # the top-down path does not depend on finer levels


def test_levels_that_the_detector_lacks_are_left_over():
    content, old = trained(levels="p2..p7")
    new = detector(TRAINED, seed=2, levels="p3..p6")
    report = load(new, content, TRAINED, levels="p3..p6")
    assert report.left_over == "P2; P7" and report.reinitialised == "nothing"
    with torch.no_grad():
        logits, expected = (model(IMAGES, SIZES).class_logits for model in (new, old))
    assert_close(logits, expected[1:5], rtol=0, atol=0)


def test_added_levels_beyond_c5_keep_initial_values():
    content, _ = trained(levels="p3..p5")
    report = load(detector(TRAINED, seed=2), content, TRAINED)
    assert report.reinitialised == "P6, P7, which the weights do not have"

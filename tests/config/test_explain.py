import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinanet.config.load import (
    config_from_values,
)
from retinanet.errors import InputError
from tests.helpers.config_errors import error_message, only_problem

TRAIN = "train: {epochs: 1}\n"


# ---- unknown keys


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("devcie: cpu", "devcie: unknown key; did you mean 'device'?"),
        ("xyzzy: 1",
         "xyzzy: unknown key; known here: assignment, data, device, evaluation, inference, loss, model, "
         "postprocess, train"),
        ("data: {resize: {shortr: 3}}", "data.resize.shortr: unknown key; did you mean 'shorter'?"),
        ("model: {anchors: {size: []}}", "model.anchors.size: unknown key; did you mean 'sizes'?"),
        ("loss: {classification: {type: focal, gama: 2}}",
         "loss.classification.gama: unknown key; did you mean 'gamma'?"),
        ("loss: {box: {type: giou, beta: 1}}",
         "loss.box.beta: unknown key for type 'giou'; it is a key of type 'smooth_l1'"),
        ("loss: {box: {type: smooth_l1, bta: 1}}", "loss.box.bta: unknown key; did you mean 'beta'?"),
        ("data: {transforms: [{type: resize}, {type: scale_jitter}, {type: color, brightnes: 1}]}",
         "data.transforms.2.brightnes: unknown key; did you mean 'brightness'?"),
        # A key with the same name as the type of its section.
        ("data: {transforms: [{type: resize}, {type: flip, flip: 1}]}",
         "data.transforms.1.flip: unknown key; known here: p, type"),
        ("data: {classes: [a, {name: b, merge: [c], mrege: [d]}]}",
         "data.classes.1.mrege: unknown key; did you mean 'merge'?"),
        ("data: {train: {images: a, annotations: b, imges: c}}",
         "data.train.imges: unknown key; did you mean 'images'?"),
        ("data: {val: [{images: a, annotations: b}, {images: a, annotations: b, imges: c}]}",
         "data.val.1.imges: unknown key; did you mean 'images'?"),
        ("<<: {device: cpu}",
         "<<: unknown key; known here: assignment, data, device, evaluation, inference, loss, model, "
         "postprocess, train"),
    ],
)  # fmt: skip
def test_unknown_key_names_the_nearest_known_key(write, text, line):
    assert only_problem(write(TRAIN + text)) == line


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("lr", "did you mean 'train.optimizer.lr'?"),
        ("train.lr", "did you mean 'train.optimizer.lr'?"),
        ("optimizer.lr", "did you mean 'train.optimizer'?"),  # only the first part is unknown
        ("model.norm", "did you mean 'model.backbone.norm'?"),  # not model.head_norm, which is only similar
        ("train.workers", "did you mean 'data.workers'?"),
        ("data.images", "did you mean 'data.train.images' or 'data.val.images'?"),
        ("model.aspect_ratio", "did you mean 'model.anchors.aspect_ratios'?"),
        ("loss.gamma", "did you mean 'loss.classification.gamma' or 'train.schedule.gamma'?"),
        # Below a section, keys in other top-level sections are not suggested.
        ("data.resize.batch_size", "known here: bucket_aspects, divisor, longer, shorter, val_shorter"),
    ],
)
def test_unknown_key_is_found_by_name_anywhere_in_the_schema(write, key, hint):
    unknown = key.removesuffix(".lr") if key.startswith("optimizer") else key
    assert only_problem(write(TRAIN), [f"{key}=1"]) == f"{unknown}: unknown key; {hint}"


def test_typo_in_a_union_suggests_only_keys_of_the_selected_type(write):
    # adamw has `betas`, sgd has `momentum`: neither is suggested for the other.
    assert only_problem(write("train: {epochs: 1, optimizer: {type: sgd, beta: 1}}")).startswith(
        "train.optimizer.beta: unknown key; known here: backbone_lr, layer_decay, lr, momentum"
    )
    assert only_problem(write("train: {epochs: 1, optimizer: {type: adamw, beta: 1}}")).endswith(
        "did you mean 'betas'?"
    )


def test_all_problems_are_listed_at_once(write):
    message = error_message(write("train: {epochs: 1, batchsize: 2, seed: x}\ndevice: 3\n"))
    assert message.splitlines() == [
        "mine.yaml: 3 problem(s) in the config",
        '  train.seed: found "x" (text), expected a whole number',
        "  train.batchsize: unknown key; did you mean 'batch_size'?",
        "  device: found 3 (whole number), expected text, in quotes",
    ]


# ---- invalid values


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("train: {epochs: true}", "train.epochs: found true, expected a number"),
        ("train: {epochs: '10'}", 'train.epochs: found "10" (text), expected a number'),
        ("train: {steps: '10'}", 'train.steps: found "10" (text), expected a whole number'),
        ("train: {steps: 10.0}", "train.steps: found 10.0 (number), expected a whole number"),
        ("train: {steps: 0}", "train.steps: found 0 (whole number), expected greater than or equal to 1"),
        ("train: {epochs: .nan}", "train.epochs: found NaN (number), expected a finite number"),
        ("train: {epochs: 1e999}", "train.epochs: found Infinity (number), expected a finite number"),
        ("train: {epochs: 1, seed: 017}", 'train.seed: found "017" (text), expected a whole number'),
        ("train: {epochs: 1, seed: 12:30}", 'train.seed: found "12:30" (text), expected a whole number'),
        ("train: {epochs: 1, seed: 1_000}", 'train.seed: found "1_000" (text), expected a whole number'),
        ("train: [1]", "train: found [1] (list), expected a mapping of keys to values"),
        ("train:", "train: found null, expected a mapping of keys to values"),
        ("", "train: neither epochs nor steps is set; set exactly one, and the other to null"),
        ("train: {}", "train: neither epochs nor steps is set; set exactly one, and the other to null"),
        (TRAIN + "data: {strict: 1}", "data.strict: found 1 (whole number), expected true or false"),
        (TRAIN + "data: {transforms: {type: resize}}",
         'data.transforms: found {"type": "resize"} (mapping), expected a list'),
        (TRAIN + "data: {transforms: [resize]}",
         'data.transforms.0: found "resize" (text), expected a mapping of keys to values'),
        (TRAIN + "data: {transforms: [{type: flp}]}",
         "data.transforms.0.type: found \"flp\", expected one of 'resize', 'scale_jitter', 'flip', "
         "'vertical_flip', 'rotate90', 'crop', 'iou_crop', 'zoom_out', 'color', 'photometric', 'blur', 'erase', "
         "'mosaic', 'mixup', 'copy_paste'; did you mean 'flip'?"),
        (TRAIN + "data: {transforms: [{type: scale_jitter, min: 2}]}", "data.transforms.0: min 2.0 is above max 1.25"),
        (TRAIN + "loss: {box: {beta: x}}", 'loss.box.beta: found "x" (text), expected a number'),
        (TRAIN + "loss: {box: {type: 3}}",
         "loss.box.type: found 3, expected one of 'smooth_l1', 'giou', 'diou', 'ciou'"),
        (TRAIN + "loss: {box: giou}", 'loss.box: found "giou" (text), expected a mapping of keys to values'),
        (TRAIN + "loss: {classification: {type: focal_loss}}",
         "loss.classification.type: found \"focal_loss\", expected one of 'focal', 'cross_entropy', "
         "'softmax_focal', 'focal_star', 'hinge', 'ohem', 'quality_focal', 'varifocal'; did you mean 'focal_star'?"),
        (TRAIN + "loss: {classification: {type: hinge, gamma: 2}}",
         "loss.classification.gamma: unknown key for type 'hinge'; it is a key of type 'focal', 'softmax_focal', "
         "'focal_star' or 'varifocal'"),
        (TRAIN + "loss: {classification: {alpha: 2}}",
         "loss.classification.alpha: found 2 (whole number), expected less than or equal to 1"),
        (TRAIN + "loss: {classification: {alpha: true}}", "loss.classification.alpha: found true, expected a number"),
        (TRAIN + "loss: {classification: {alpha: frequency}}",
         'loss.classification.alpha: found "frequency" (text), expected \'inverse_frequency\''),
        (TRAIN + "loss: {classification: {alpha: [0.5, 2]}}",
         "loss.classification.alpha.1: found 2 (whole number), expected less than or equal to 1"),
        (TRAIN + "loss: {classification: {alpha: []}}",
         "loss.classification.alpha: found [] (list), expected at least 1 item(s)"),
        (TRAIN + "loss: {classification: {type: ohem, nms_iou: x}}",
         'loss.classification.nms_iou: found "x" (text), expected a number'),
        (TRAIN + "data: {classes: [3]}", "data.classes.0: found 3 (whole number), expected text, in quotes"),
        (TRAIN + "data: {classes: [no]}", "data.classes.0: found false, expected text, in quotes"),
        (TRAIN + "data: {classes: [{name: a, merge: []}]}",
         "data.classes.0.merge: found [] (list), expected at least 1 item(s)"),
        (TRAIN + "data: {classes: [{name: a}]}", "data.classes.0.merge: missing, and it has no default"),
        (TRAIN + "data: {train: [{images: a}]}", "data.train.0.annotations: missing, and it has no default"),
        (TRAIN + "data: {train: {images: a}}", "data.train.annotations: missing, and it has no default"),
        (TRAIN + "data: {resize: {shorter: [x]}}",
         'data.resize.shorter.0: found "x" (text), expected a whole number'),
        (TRAIN + "data: {resize: {shorter: 0}}",
         "data.resize.shorter: found 0 (whole number), expected greater than or equal to 1"),
        (TRAIN + "model: {anchors: {sizes: [1, 2]}}",
         "model.anchors: 2 sizes, but 5 levels: p3..p7 (model.levels); set one size per level, or remove sizes"),
        (TRAIN + "assignment: {type: ats}",
         "assignment.type: found \"ats\", expected one of 'iou', 'atss'; did you mean 'atss'?"),
        (TRAIN + "assignment: {fg_iou: 0.1}", "assignment: bg_iou 0.4 is above fg_iou 0.1"),
        (TRAIN + "assignment: {type: atss, fg_iou: 0.5}",
         "assignment.fg_iou: unknown key for type 'atss'; it is a key of type 'iou'"),
        (TRAIN + "assignment: [iou]", 'assignment: found ["iou"] (list), expected a mapping of keys to values'),
        ("train: {epochs: 1, optimizer: {type: adamw, betas: [0.1, 0.2, 0.3]}}",
         "train.optimizer.betas: found [0.1, 0.2, 0.3] (list), expected at most 2 item(s)"),
        (TRAIN + 'device: "\\ud800"',
         "contains characters that are not valid Unicode, expected UTF-8 text"),
    ],
)  # fmt: skip
def test_invalid_value_reports_found_and_expected(write, text, line):
    assert only_problem(write(text)) == line


def test_unknown_backbone_lists_known_ones(write):
    line = only_problem(write(TRAIN + "model: {backbone: {name: resnet52}}"))
    assert line.startswith("model.backbone.name: found \"resnet52\" (text), expected 'resnet18', 'resnet34'")


def test_long_values_are_shortened(write):
    assert len(only_problem(write(TRAIN + f"data: {{workers: {'x' * 5000}}}"))) < 200


SCALARS = st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=4)
KEYS = st.sampled_from(
    ["train", "data", "transforms", "type", "flip", "classes", "merge", "name", "MergedClass", "str"]
)
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(KEYS, v, max_size=4), max_leaves=12)


@settings(max_examples=300, deadline=None)
@given(
    section=st.sampled_from(["data", "loss", "model", "train", "device"]),
    key=st.sampled_from(["transforms", "classes", "train", "resize", "anchors", "box", "optimizer", "epochs"]),
    value=VALUES,
)
def test_any_value_is_accepted_or_explained(section, key, value):
    try:
        config_from_values({"train": {"epochs": 1}, section: {key: value}}, source="any value")
    except InputError as error:
        lines = str(error).splitlines()
        assert len(lines) > 1 and all(line.strip() for line in lines)

import re
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from retinanet.config import (
    AdamWConfig,
    ATSSAssignmentConfig,
    Config,
    CosineSchedule,
    IoUAssignmentConfig,
    SGDConfig,
)
from retinanet.config.load import (
    config_from_values,
    config_to_yaml,
    find_config,
    load_config,
    merge,
    parse_override,
    with_overrides,
)
from retinanet.errors import InputError

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.yaml"))
TRAIN = "train: {epochs: 1}\n"


@pytest.fixture
def write(tmp_path):
    def write_config(content, name="mine.yaml"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_config


def refusal(path, overrides=()):
    """The message of the InputError, without the name of the folder."""
    with pytest.raises(InputError) as caught:
        load_config(path, overrides)
    return str(caught.value).replace(f"{Path(path).parent}/", "")


def one_problem(path, overrides=()):
    """The only line below the heading, which names the file."""
    heading, *lines = refusal(path, overrides).splitlines()
    assert heading.startswith("mine.yaml") and heading.endswith("1 problem(s) in the configuration"), heading
    assert len(lines) == 1, lines
    return lines[0].strip()


# ---- unknown keys


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("devcie: cpu", "devcie: unknown key; did you mean 'device'?"),
        ("xyzzy: 1",
         "xyzzy: unknown key; known here: assignment, data, device, inference, loss, model, postprocess, train"),
        ("data: {resize: {shortr: 3}}", "data.resize.shortr: unknown key; did you mean 'shorter'?"),
        ("model: {anchors: {size: []}}", "model.anchors.size: unknown key; did you mean 'sizes'?"),
        ("loss: {classification: {type: focal, gama: 2}}",
         "loss.classification.gama: unknown key; did you mean 'gamma'?"),
        ("loss: {box: {type: giou, beta: 1}}", "loss.box.beta: unknown key; known here: type"),
        ("loss: {box: {type: smooth_l1, bta: 1}}", "loss.box.bta: unknown key; did you mean 'beta'?"),
        ("data: {transforms: [{type: resize}, {type: scale_jitter}, {type: color, brightnes: 1}]}",
         "data.transforms.2.brightnes: unknown key; did you mean 'brightness'?"),
        # A key that is called like the tag of its own part.
        ("data: {transforms: [{type: resize}, {type: flip, flip: 1}]}",
         "data.transforms.1.flip: unknown key; known here: p, type"),
        ("data: {classes: [a, {name: b, merge: [c], mrege: [d]}]}",
         "data.classes.1.mrege: unknown key; did you mean 'merge'?"),
        ("data: {train: {images: a, annotations: b, imges: c}}",
         "data.train.imges: unknown key; did you mean 'images'?"),
        ("data: {val: [{images: a, annotations: b}, {images: a, annotations: b, imges: c}]}",
         "data.val.1.imges: unknown key; did you mean 'images'?"),
        ("<<: {device: cpu}",
         "<<: unknown key; known here: assignment, data, device, inference, loss, model, postprocess, train"),
    ],
)  # fmt: skip
def test_unknown_key_names_the_nearest(write, text, line):
    assert one_problem(write(TRAIN + text)) == line


def test_typo_in_a_union_offers_only_the_keys_of_the_chosen_part(write):
    # adamw has `betas`, sgd has `momentum`: neither is offered for the other.
    assert one_problem(write("train: {epochs: 1, optimizer: {type: sgd, beta: 1}}")).startswith(
        "train.optimizer.beta: unknown key; known here: lr, momentum"
    )
    assert one_problem(write("train: {epochs: 1, optimizer: {type: adamw, beta: 1}}")).endswith("did you mean 'betas'?")


def test_all_problems_are_listed_at_once(write):
    message = refusal(write("train: {epochs: 1, batchsize: 2, seed: x}\ndevice: 3\n"))
    assert message.splitlines() == [
        "mine.yaml: 3 problem(s) in the configuration",
        '  train.seed: found "x" (text), expected a whole number',
        "  train.batchsize: unknown key; did you mean 'batch_size'?",
        "  device: found 3 (whole number), expected text, in quotes",
    ]


# ---- wrong values


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
        ("", "train: neither epochs nor steps given; set exactly one, the other is null"),
        ("train: {}", "train: neither epochs nor steps given; set exactly one, the other is null"),
        (TRAIN + "data: {strict: 1}", "data.strict: found 1 (whole number), expected true or false"),
        (TRAIN + "data: {transforms: {type: resize}}",
         'data.transforms: found {"type": "resize"} (mapping), expected a list'),
        (TRAIN + "data: {transforms: [resize]}",
         'data.transforms.0: found "resize" (text), expected a mapping of keys to values'),
        (TRAIN + "data: {transforms: [{type: flp}]}",
         "data.transforms.0.type: found \"flp\", expected one of 'resize', 'scale_jitter', 'flip', 'color'; "
         "did you mean 'flip'?"),
        (TRAIN + "data: {transforms: [{type: scale_jitter, min: 2}]}", "data.transforms.0: min 2.0 is above max 1.25"),
        (TRAIN + "loss: {box: {beta: x}}", 'loss.box.beta: found "x" (text), expected a number'),
        (TRAIN + "loss: {box: {type: 3}}",
         "loss.box.type: found 3, expected one of 'smooth_l1', 'giou', 'diou', 'ciou'"),
        (TRAIN + "loss: {box: giou}", 'loss.box: found "giou" (text), expected a mapping of keys to values'),
        (TRAIN + "loss: {classification: {type: focal_loss}}",
         "loss.classification.type: found \"focal_loss\", expected one of 'focal', 'cross_entropy', "
         "'softmax_focal', 'focal_star', 'hinge', 'ohem', 'quality_focal', 'varifocal'; did you mean 'focal_star'?"),
        (TRAIN + "loss: {classification: {type: hinge, gamma: 2}}",
         "loss.classification.gamma: unknown key; known here: type"),
        (TRAIN + "loss: {classification: {alpha: 2}}",
         "loss.classification.alpha: found 2 (whole number), expected less than or equal to 1"),
        (TRAIN + "loss: {classification: {alpha: true}}", "loss.classification.alpha: found true, expected a number"),
        (TRAIN + "loss: {classification: {alpha: frequency}}",
         'loss.classification.alpha: found "frequency" (text), expected \'inverse_frequency\''),
        (TRAIN + "loss: {classification: {alpha: [0.5, 2]}}",
         "loss.classification.alpha.1: found 2 (whole number), expected less than or equal to 1"),
        (TRAIN + "loss: {classification: {alpha: []}}",
         "loss.classification.alpha: found [] (list), expected at least 1 of them"),
        (TRAIN + "loss: {classification: {type: ohem, nms_iou: x}}",
         'loss.classification.nms_iou: found "x" (text), expected a number'),
        (TRAIN + "data: {classes: [3]}", "data.classes.0: found 3 (whole number), expected text, in quotes"),
        (TRAIN + "data: {classes: [no]}", "data.classes.0: found false, expected text, in quotes"),
        (TRAIN + "data: {classes: [{name: a, merge: []}]}",
         "data.classes.0.merge: found [] (list), expected at least 1 of them"),
        (TRAIN + "data: {classes: [{name: a}]}", "data.classes.0.merge: missing, and it has no default"),
        (TRAIN + "data: {train: [{images: a}]}", "data.train.0.annotations: missing, and it has no default"),
        (TRAIN + "data: {train: {images: a}}", "data.train.annotations: missing, and it has no default"),
        (TRAIN + "data: {resize: {shorter: [x]}}",
         'data.resize.shorter.0: found "x" (text), expected a whole number'),
        (TRAIN + "data: {resize: {shorter: 0}}",
         "data.resize.shorter: found 0 (whole number), expected greater than or equal to 1"),
        (TRAIN + "model: {anchors: {sizes: [1, 2]}}",
         "model.anchors: 5 strides but 2 sizes; give one of each per level"),
        (TRAIN + "assignment: {type: ats}",
         "assignment.type: found \"ats\", expected one of 'iou', 'atss'; did you mean 'atss'?"),
        (TRAIN + "assignment: {fg_iou: 0.1}", "assignment: bg_iou 0.4 is above fg_iou 0.1"),
        (TRAIN + "assignment: {type: atss, fg_iou: 0.5}",
         "assignment.fg_iou: unknown key; known here: anchors_per_level, ignore_ioa, type"),
        (TRAIN + "assignment: [iou]", 'assignment: found ["iou"] (list), expected a mapping of keys to values'),
        (TRAIN + "model: {mean: [1, 2, 3, 4]}", "model.mean: found [1, 2, 3, 4] (list), expected at most 3 of them"),
        (TRAIN + 'device: "\\ud800"',
         "holds text that is not Unicode, expected plain text"),
    ],
)  # fmt: skip
def test_wrong_value_says_what_was_found_and_expected(write, text, line):
    assert one_problem(write(text)) == line


def test_unknown_backbone_lists_the_known(write):
    line = one_problem(write(TRAIN + "model: {backbone: {name: resnet52}}"))
    assert line.startswith("model.backbone.name: found \"resnet52\" (text), expected 'resnet18', 'resnet34'")


def test_long_values_are_cut(write):
    assert len(one_problem(write(TRAIN + f"data: {{workers: {'x' * 5000}}}"))) < 200


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 1e-3), ("1E-3", 1e-3), ("1e+2", 100), ("5e0", 5), (".5", 0.5), ("2.", 2), ("3", 3)]
)
def test_numbers_read_as_numbers(write, text, value):
    path = write(f"train: {{epochs: 1, optimizer: {{type: sgd, lr: {text}}}}}")
    assert load_config(path).train.optimizer == SGDConfig(lr=value)
    assert load_config(path, [f"train.epochs={text}"]).train.epochs == value


@settings(deadline=None)
@given(st.floats(min_value=1e-300, max_value=1e300))
def test_any_number_that_python_prints_is_read_back(number):
    assert parse_override(f"a={number!r}") == {"a": number}


@pytest.mark.parametrize(
    "text", ["12:30", "2024-01-01", "017", "0x10", "1_000", "1e", "e5", "1.2.3", "+", "--", "=", "<<"]
)
def test_what_is_no_number_stays_text(text):
    assert parse_override(f"a={text}") == {"a": text}


# ---- files that are no configuration


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("train: {epochs: 1, epochs: 2}", "cannot be read as YAML: line 1, column 20: the key 'epochs' stands twice"),
        (TRAIN + "train: {steps: 1}", "cannot be read as YAML: line 2, column 1: the key 'train' stands twice"),
        (TRAIN + "1: 2", "cannot be read as YAML: line 2, column 1: the key 1 is not text"),
        (TRAIN + "[a]: 2", "cannot be read as YAML: line 2, column 1: the key ['a'] is not text"),
        ("train: {epochs: 1", "cannot be read as YAML: line 1, column 18: expected ',' or '}'"),
        (TRAIN + "---\n" + TRAIN, "cannot be read as YAML: line 2, column 1: but found another document"),
        ("- a\n- b", "list at the top, expected keys and values such as train: ..."),
        ("hello", "text at the top, expected keys and values such as train: ..."),
        ("3", "whole number at the top, expected keys and values such as train: ..."),
        (b"train: \xe9", "is not a text file in UTF-8: 'utf-8' codec can't decode byte 0xe9 in position 7"),
        (TRAIN.encode("utf-16"), "is not a text file in UTF-8"),
        (b"PK\x03\x04\x14\x00", "cannot be read as YAML: unacceptable character #x0003"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", "is not a text file in UTF-8"),
        ("device: " + "[" * 5000, "is nested too deeply for a configuration"),
        ("a: " * 3 + "x", "cannot be read as YAML: line 1, column 5: mapping values are not allowed here"),
        ("train: {epochs: " + "9" * 5000 + "}",
         "cannot be read as YAML: line 1, column 17: cannot be read as a value (Exceeds the limit (4300 digits)"),
        ("#" * 1_000_001, "1000001 bytes, a configuration file has at most 1000000"),
    ],
)  # fmt: skip
def test_file_that_is_no_configuration(write, content, message):
    assert refusal(write(content)).startswith(f"mine.yaml: {message}")


def test_byte_order_mark_is_no_mistake(write):
    assert load_config(write(b"\xef\xbb\xbf" + TRAIN.encode())).train.epochs == 1


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("!!python/object/apply:os.mkdir [MARK]", "!!python/object/apply:os.mkdir"),
        ("train: !!python/object/new:os.mkdir [MARK]", "!!python/object/new:os.mkdir"),
        ("device: !!python/name:os.mkdir", "!!python/name:os.mkdir"),
        ("? !!python/object/apply:os.mkdir [MARK]\n: 1", "!!python/object/apply:os.mkdir"),
        ("device: !mine x", "!mine"),
        ("device: !!binary aGVsbG8=", "!!binary"),
        ("device: !!timestamp 2024-01-01", "!!timestamp"),
        ("data: !!set {a}", "!!set"),
    ],
)
def test_tags_are_refused_and_run_nothing(write, tmp_path, text, tag):
    mark = tmp_path / "mark"
    message = refusal(write(text.replace("MARK", str(mark))))
    assert f"the tag {tag} is not supported, give a plain value" in message
    with pytest.raises(InputError, match=re.escape(f"the tag {tag} is not supported")):
        parse_override("a={" + text.replace("MARK", str(mark)).replace("\n", " ") + " }")
    assert not mark.exists()


@pytest.mark.parametrize("value", ["!!float abc", "!!int abc", "!!int ''", "!!bool abc"])
def test_plain_tags_before_other_text(write, value):
    message = refusal(write(f"train: {{epochs: {value}}}"))
    assert message.startswith("mine.yaml: cannot be read as YAML: line 1, column 17: cannot be read as a value")


def test_aliases_are_refused_before_they_grow(write):
    # Nine to the ninth power values where they are expanded.
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    start = time.process_time()
    message = refusal(write("\n".join(lines)))
    assert time.process_time() - start < 5
    assert message.startswith("mine.yaml: cannot be read as YAML: line 2, column 10: the alias *a0 is not supported")


@pytest.mark.parametrize("text", ["device: &a [*a]", "x: &d {epochs: 1}\ntrain: {<<: *d}", "device: *a"])
def test_other_aliases_are_refused_too(write, text):
    assert re.search(r"line \d, column \d+: the alias \*\w is not supported, write the value out", refusal(write(text)))


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40) | st.text(alphabet=" \n:-[]{}!&*#'\"?,|>%@`~01eE.<=ab", max_size=40))
def test_any_text_is_read_or_refused(text):
    try:
        values = parse_override(f"data={text}")
        config_from_values({"train": {"epochs": 1}, **values}, source="any text")
    except InputError as error:
        assert str(error)


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
def test_any_value_anywhere_is_taken_or_explained(section, key, value):
    try:
        config_from_values({"train": {"epochs": 1}, section: {key: value}}, source="any value")
    except InputError as error:
        lines = str(error).splitlines()
        assert len(lines) > 1 and all(line.strip() for line in lines)


# ---- which file


def test_shipped_configs_are_found_by_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("quickstart", "quickstart.yaml", "configs/quickstart.yaml"):
        assert find_config(name).read_text() == CONFIGS[[c.stem for c in CONFIGS].index("quickstart")].read_text()


def test_file_of_the_user_comes_before_a_shipped_one(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart.yaml").write_text("train: {steps: 7}")
    assert load_config("quickstart.yaml").train.steps == 7


def test_missing_file_is_not_replaced_by_a_shipped_one_of_its_name(tmp_path):
    with pytest.raises(InputError, match="no such configuration file, by path or by name in the package; did you mean"):
        find_config(tmp_path / "quickstart.yaml")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("quikstart", "quikstart: no such configuration file, by path or by name in the package; "
                      "did you mean quickstart?"),
        ("nothing/like/it.yaml", "nothing/like/it.yaml: no such configuration file, by path or by name in the package; "
                                 "the package has "),
        ("", "'': is a folder, expected a configuration file"),
        ("bad\0name", "bad\0name: no such configuration file"),
    ],
)  # fmt: skip
def test_no_such_config(name, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        load_config(name)
    assert str(caught.value).startswith(message)


def test_folder_is_no_config(tmp_path):
    assert "is a folder, expected a configuration file" in refusal(tmp_path)


# ---- base


def test_base_beside_the_file_is_merged_key_by_key(write, monkeypatch, tmp_path):
    write("train: {epochs: 3, batch_size: 4}\nmodel: {channels: 64, anchors: {offset: 0.5}}\n", "common.yaml")
    path = write("base: common.yaml\ntrain: {batch_size: 2}\nmodel: {anchors: {aspect_ratios: [1.0]}}\n")
    monkeypatch.chdir("/")  # a base is looked for beside the file, wherever the command runs
    cfg = load_config(path)
    assert (cfg.train.epochs, cfg.train.batch_size, cfg.model.channels) == (3, 2, 64)
    assert (cfg.model.anchors.offset, cfg.model.anchors.aspect_ratios) == (0.5, (1.0,))


def test_base_by_name_in_the_package(write):
    assert (
        load_config(write("base: quickstart\ntrain: {batch_size: 3}\n")).train
        == load_config("quickstart", ["train.batch_size=3"]).train
    )


def test_another_type_replaces_the_part_of_the_base(write):
    write("train: {epochs: 1, optimizer: {type: sgd, lr: 0.5, momentum: 0.5}}\n", "common.yaml")
    cfg = load_config(write("base: common.yaml\ntrain: {optimizer: {type: adamw}, schedule: {type: cosine}}\n"))
    assert cfg.train.optimizer == AdamWConfig() and cfg.train.schedule == CosineSchedule()
    same = load_config(write("base: common.yaml\ntrain: {optimizer: {type: sgd, lr: 0.25}}\n"))
    assert same.train.optimizer == SGDConfig(lr=0.25, momentum=0.5)
    untyped = load_config(write("base: common.yaml\ntrain: {optimizer: {lr: 0.25}}\n"))
    assert untyped.train.optimizer == SGDConfig(lr=0.25, momentum=0.5)


def test_lists_are_replaced_whole(write):
    write(TRAIN + "data: {transforms: [{type: resize}, {type: flip}]}\n", "common.yaml")
    assert len(load_config(write("base: common.yaml\ndata: {transforms: [{type: resize}]}\n")).data.transforms) == 1


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("gone.yaml", "mine.yaml: base: gone.yaml: no such configuration file"),
        ("3", "mine.yaml: base is 3, expected the name of one configuration file"),
        ("[a, b]", "mine.yaml: base is ['a', 'b'], expected the name of one configuration file"),
        ("mine.yaml", "mine.yaml: is the base of mine.yaml and names a base itself; only one step is allowed"),
        ("second.yaml", "second.yaml: is the base of mine.yaml and names a base itself; only one step is allowed"),
        ("broken.yaml", "broken.yaml: cannot be read as YAML: line 1"),
    ],
)
def test_wrong_base(write, base, message):
    write("base: quickstart\n", "second.yaml")
    write("train: {", "broken.yaml")
    assert refusal(write(f"base: {base}\n")).startswith(message)


def test_mistake_in_a_base_names_the_base(write):
    write("train: {epochs: 1, batchsize: 3}\n", "common.yaml")
    message = refusal(write("base: common.yaml\ndevice: cpu\n"))
    assert message.splitlines()[0] == "mine.yaml (base common.yaml): 1 problem(s) in the configuration"


# ---- overrides


@pytest.mark.parametrize("override", ["train.epochs", "", "=3", "train..epochs=3", ".epochs=3", "train.=3"])
def test_override_of_bad_form(write, override):
    message = refusal(write(TRAIN), [override])
    assert message == f"override {override!r}: expected KEY.KEY=VALUE, for example train.epochs=3"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epochs=[1", "override 'train.epochs=[1': the value cannot be read as YAML: line 1, column 3"),
        ("device=a: b: c", "override 'device=a: b: c': the value cannot be read as YAML: line 1, column 5"),
        ("device=*a", "override 'device=*a': the value cannot be read as YAML: line 1, column 1: the alias *a"),
        ("device=\x07", "override 'device=\\x07': the value cannot be read as YAML: unacceptable character #x0007"),
        ("device=" + "[" * 5000, "override 'device=[[["),
    ],
)
def test_override_with_bad_yaml(write, override, message):
    found = refusal(write(TRAIN), [override])
    assert found.startswith(message) and len(found) < 250


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("train.epohs=3", "train.epohs: unknown key; did you mean 'epochs'?"),
        ("modell.channels=3", "modell: unknown key; did you mean 'model'?"),
        ("train.epochs.value=3", 'train.epochs: found {"value": 3} (mapping), expected a number'),
        ("train=3", "train: found 3 (whole number), expected a mapping of keys to values"),
        ("train.epochs=", "train: neither epochs nor steps given; set exactly one, the other is null"),
        ("train.steps=5", "train: both epochs and steps given; set exactly one, the other is null"),
        (
            "base=quickstart",
            "base: unknown key; known here: assignment, data, device, inference, loss, model, postprocess, train",
        ),
        ("data.train.images=a", "data.train.annotations: missing, and it has no default"),
        ("data.transforms.0.p=1", 'data.transforms: found {"0": {"p": 1}} (mapping), expected a list'),
    ],
)
def test_override_with_a_mistake(write, override, line):
    assert one_problem(write(TRAIN), [override]) == line


def test_overrides_are_named_as_the_place_to_look(write):
    assert refusal(write(TRAIN), ["device=3"]).startswith("mine.yaml with overrides: 1 problem(s)")


def test_later_overrides_win(write):
    cfg = load_config(write(TRAIN), ["train.epochs=2", "train.epochs=3", "device=cpu", "train.optimizer.type=adamw"])
    assert (cfg.train.epochs, cfg.device, cfg.train.optimizer) == (3, "cpu", AdamWConfig())


def test_keys_of_the_assignment_go_with_its_type(write):
    assert load_config(write(TRAIN), ["assignment.fg_iou=0.6"]).assignment == IoUAssignmentConfig(fg_iou=0.6)
    by_centre = write(TRAIN + "assignment: {type: atss, anchors_per_level: 27}")
    changed = load_config(by_centre, ["assignment.ignore_ioa=0"]).assignment
    assert changed == ATSSAssignmentConfig(anchors_per_level=27, ignore_ioa=0)
    assert load_config(by_centre, ["assignment.type=iou"]).assignment == IoUAssignmentConfig()


def test_epochs_give_way_to_steps(write):
    cfg = load_config(write(TRAIN), ["train.epochs=null", "train.steps=5"])
    assert (cfg.train.epochs, cfg.train.steps) == (None, 5)


def test_values_with_equals_signs_and_dots(write):
    assert load_config(write(TRAIN), ["data.val=[{images: a=b/c.d, annotations: e}]"]).data.val[0].images == "a=b/c.d"


SOURCES = {
    "nothing": "",
    "a mapping": "data: {train: {images: old, annotations: kept.json}}",
    "a list of one": "data: {train: [{images: old, annotations: kept.json}]}",
}


@pytest.mark.parametrize("form", SOURCES)
def test_source_of_an_override(write, form):
    overrides = ["data.train.images=new"] + (["data.train.annotations=kept.json"] if form == "nothing" else [])
    (source,) = load_config(write(TRAIN + SOURCES[form]), overrides).data.train
    assert (source.images, source.annotations) == ("new", "kept.json")


def test_several_sources_are_not_changed_by_one_key(write):
    two = "data: {train: [{images: a, annotations: b}, {images: c, annotations: d}]}"
    assert one_problem(write(TRAIN + two), ["data.train.images=new"]) == (
        "data.train.annotations: missing, and it has no default"
    )


def test_with_overrides_checks_the_whole(write):
    cfg = load_config(write(TRAIN))
    changed = with_overrides(cfg, ["data.val.images=a", "data.val.annotations=b", "train.optimizer.lr=0.5"], "here")
    assert (changed.data.val[0].images, changed.train.optimizer.lr) == ("a", 0.5)
    assert cfg.data.val == ()
    with pytest.raises(
        InputError, match=r"^here: 1 problem\(s\) in the configuration\n  model.backbone: weights is none"
    ):
        with_overrides(cfg, ["model.backbone.weights=none"], "here")


MAPPINGS = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 3) | st.lists(st.integers()), max_size=4)


@settings(deadline=None)
@given(base=MAPPINGS, values=MAPPINGS)
def test_merge_of_flat_mappings_is_update(base, values):
    before = dict(base)
    assert merge(base, values) == base | values
    assert base == before


@settings(deadline=None)
@given(base=st.dictionaries(st.sampled_from("ab"), MAPPINGS), values=st.dictionaries(st.sampled_from("ab"), MAPPINGS))
def test_merging_twice_changes_nothing(base, values):
    merged = merge(base, values)
    assert merge(merged, values) == merged
    assert all(merged[key][name] == value for key in values for name, value in values[key].items())


# ---- all values, written out


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_config_reads_back_from_its_full_form(path, tmp_path):
    cfg = load_config(path)
    text = config_to_yaml(cfg)
    (tmp_path / "full.yaml").write_text(text, encoding="utf-8")
    assert load_config(tmp_path / "full.yaml") == cfg == load_config(path.stem)
    assert set(yaml.safe_load(text)) == set(Config.model_fields)


@settings(deadline=None)
@given(
    lr=st.floats(1e-12, 1e3),
    name=st.text(max_size=8),
    jitter=st.tuples(st.floats(0.1, 0.9), st.floats(1.0, 3.0)),
    betas=st.tuples(st.floats(0, 0.9999), st.floats(0, 0.9999)),
)
def test_any_config_reads_back_from_its_full_form(lr, name, jitter, betas):
    low, high = jitter
    values = {
        "data": {
            "train": [{"images": name, "annotations": name}],
            "classes": [name, {"name": name + "2", "merge": ["no", "1e3", name]}],
            "transforms": [{"type": "scale_jitter", "min": low, "max": high}, {"type": "flip"}],
        },
        "train": {"steps": 3, "optimizer": {"type": "adamw", "lr": lr, "betas": list(betas)}},
    }
    cfg = config_from_values(values, source="test")
    again = config_from_values(parse_override(f"all={config_to_yaml(cfg)}")["all"], source="test")
    assert again == cfg and cfg.train.optimizer.lr == lr

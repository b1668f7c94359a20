"""The model card: its content and front matter, names that could break it, and no private information."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinanet import __version__
from retinanet.config.flat import flat_config
from retinanet.config.load import load_config, with_overrides
from retinanet.config.public import public_config
from retinanet.report.model_card import plain, render_card
from retinanet.report.scores import CardScores, ClassScores
from tests.helpers.checkpoints import checkpoint_of, filled

ENVIRONMENT = {
    "retinanet": __version__,
    "git_commit": "0123abc-dirty",
    "python": "3.11.7",
    "packages": {"torch": "2.14.1", "torchvision": "0.29.1"},
    "platform": "Linux-6.1.0-alices-kernel-x86_64-with-glibc2.36",
    "cpu_capability": "AVX512",
    "threads": 2,
    "accelerator": None,
    "command": ["/home/alice/.venv/bin/retinanet", "train", "/home/alice/my.yaml"],
    "folder": "/home/alice/project",
}
SCORES = CardScores(
    metrics={"AP": 0.5, "AP50": 0.75},
    classes={"cat": ClassScores(ap=0.4, ap50=0.7, interval=(0.3, 0.5), num_objects=12), "dog": ClassScores(ap=0.6)},
    data=("val.json",),
    intervals={"AP": (0.45, 0.55)},
    resamples=1000,
    notes=("postprocess.max_detections is 10",),
    is_from_training=False,
)


def card(checkpoint=None, **options):
    defaults = {"name": "cells", "scores": None, "environment": {}}
    return render_card(checkpoint or filled(3), **(defaults | options))


def section(text, title):
    """The text below a heading."""
    return re.search(rf"^## {title}\n\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)[1]


def test_scores_with_intervals():
    text = card(scores=SCORES)
    assert section(text, "Evaluation") == (
        "AP 0.500 (95 % interval 0.450 to 0.550, 1000 bootstrap resamples of the images) on val.json. AP is the mean "
        "over IoU 0.50 to 0.95.\n\n"
        "| metric | value | 95 % interval |\n| --- | --- | --- |\n"
        "| AP | 0.500 | 0.450 to 0.550 |\n| AP50 | 0.750 | - |\n\n"
        "Note: postprocess.max_detections is 10.\n\n"
    )
    assert section(text, "Classes") == (
        "| label | class | category id | objects | AP | 95 % interval | AP50 |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n"
        "| 0 | cat | 3 | 12 | 0.400 | 0.300 to 0.500 | 0.700 |\n"
        "| 1 | dog | 7 | - | 0.600 | - | - |\n\n"
    )


def test_run_without_an_evaluation_says_so():
    text = card()
    assert section(text, "Evaluation") == "**Not evaluated:** the run has no evaluation of these weights.\n\n"
    assert section(text, "Classes").startswith(
        "| label | class | category id |\n| --- | --- | --- |\n| 0 | cat | 3 |\n"
    )
    assert "model-index" not in text


def test_scores_of_the_training_run_say_that_they_have_no_interval():
    scores = CardScores(metrics={"AP": 0.5}, classes={}, intervals={}, is_from_training=True)
    assert section(card(scores=scores), "Evaluation").startswith(
        "AP 0.500 on the validation set of the run, measured in the training run at this step; no interval"
    )


def test_ap_that_could_not_be_measured():
    scores = CardScores(metrics={}, classes={}, intervals={}, is_from_training=False)
    assert "AP could not be measured on the validation set of the run" in card(scores=scores)


def test_thresholds_are_listed_and_their_use_is_explained():
    text = card(filled(3)._replace(thresholds=(0.5, None)))
    assert "| 0 | cat | 3 | 0.500 |\n| 1 | dog | 7 | - |\n" in text
    assert "or above 0.3 for classes\nwithout one. With `use_thresholds=False`, it returns all" in text
    assert "use_thresholds" not in card()


def test_environment_and_licence():
    text = card(environment=ENVIRONMENT, license="apache-2.0", dataset="1,000 images of a microscope")
    assert "| commit | 0123abc-dirty |\n| Python | 3.11.7 |\n| torch | 2.14.1 |\n" in text
    assert "| system | Linux |\n| device | CPU (AVX512, 2 thread(s)) |\n" in text
    assert "Data: 1,000 images of a microscope.\n" in text
    assert section(text, "Licence") == "apache-2.0\n"
    assert "The training environment was not recorded." in card()
    assert section(card(), "Licence").startswith("No licence was stated.")


def test_levels_and_nms_across_classes_are_stated():
    trained = filled(3)
    cfg = with_overrides(trained.config, ["model.levels=p2..p7", "postprocess.nms_across_classes=true"], source="test")
    text = card(trained._replace(config=cfg))
    assert "256 channels, levels p2..p7" in text and "IoU 0.5 across classes, at most 100 detections" in text


def test_tiles_augmentation_and_soft_nms_are_stated_if_they_are_used():
    trained = filled(3)
    assert not {"| tiles |", "| test-time augmentation |"} & set(re.findall(r"^\| .*? \|", card(trained), re.MULTILINE))
    overrides = ["inference.tile.size=512", "inference.augment.scales=[0.5]", "inference.augment.flip=true"]
    overrides += ["postprocess.soft_nms=gaussian"]
    text = card(trained._replace(config=with_overrides(trained.config, overrides, source="test")))
    assert "| test-time augmentation | scale 0.5, flipped |\n| tiles | 512 pixels, overlap 0.2 |" in text
    assert "soft (gaussian), IoU 0.5, at most 100 detections per image" in text


def test_recipe_repeats_the_config(tmp_path):
    """The keys on the card, loaded as a config file, give the config of the run but for its data."""
    cfg = load_config("quickstart", ["train.ema_decay=0.9", "data.transforms=[{type: scale_jitter, max: 2}]"])
    text = card(filled(3)._replace(config=cfg))
    (recipe,) = re.findall(r"```yaml\n(.*?)```\n", text, re.DOTALL)
    (tmp_path / "recipe.yaml").write_text(recipe)
    expected = public_config(with_overrides(cfg, "data.workers=2", source="test"))  # without effect, so not listed
    assert flat_config(load_config(tmp_path / "recipe.yaml")) == flat_config(expected)


@pytest.mark.parametrize("evaluated", [True, False])
def test_hub_library_reads_the_front_matter(evaluated):
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is optional: pip install retinanet[hub]")
    text = card(name="my-lab/cells", license="apache-2.0", scores=SCORES if evaluated else None)
    data = hub.ModelCard(text).data
    assert (data.license, data.library_name, data.pipeline_tag) == ("apache-2.0", "retinanet", "object-detection")
    assert "retinanet" in data.tags
    results = data.eval_results or []
    assert [(result.metric_name, result.metric_value) for result in results] == (
        [("AP", 0.5), ("AP50", 0.75)] if evaluated else []
    )
    assert all((result.task_type, result.dataset_name) == ("object-detection", "val.json") for result in results)


def test_nothing_private_is_on_the_card():
    overrides = ["data.train={annotations: /home/alice/secret/train.json, images: /home/alice/secret/images}"]
    overrides += [
        "data.val=[{annotations: /home/alice/secret/val.json}, /home/alice]",
        "train.init_from=/home/alice/a.pt",
    ]
    overrides += ["model.backbone.weights=C:\\Users\\alice\\r50.pth", "device=cuda:3"]
    checkpoint = checkpoint_of(model=filled(1).weights())
    checkpoint = checkpoint._replace(config=with_overrides(checkpoint.config, overrides, source="test"))
    scores = CardScores(metrics={"AP": 0.5}, classes={}, intervals={}, is_from_training=True)
    text = card(checkpoint, environment=ENVIRONMENT, scores=scores)
    assert not re.search(r"alice|secret|/home|Users|cuda|kernel", text)
    assert "Data: train.json." in text and "AP 0.500 on val.json" in text


HOSTILE = [
    "a|b",
    "x\n## heading",
    "<script>alert(1)</script>",
    "[link](http://x)",
    "`code`",
    "*bold*",
    "_it_",
    "a\n```",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_cannot_change_the_structure_of_the_card(name):
    text = card(filled(3)._replace(class_names=(name, "dog")), name=name, dataset=name)
    ordinary = card(filled(3), name="cells", dataset="cells")

    def structure(card):
        return [found[0] if (found := re.match(r"#+ |\| |```|---", line)) else "" for line in card.split("\n")]

    assert structure(text) == structure(ordinary)
    (row,) = [line for line in text.split("\n") if line.startswith("| 0 |")]
    assert len(re.findall(r"(?<!\\)\|", row)) == 4
    shown = re.sub(r"^(```|---).*?^\1", "", text, flags=re.DOTALL | re.MULTILINE)  # without code and front matter
    assert not re.search(r"(?<!\\)<", shown)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30))
def test_plain_text_is_one_line_without_active_characters(text):
    found = plain(text)
    assert "\n" not in found
    assert not re.search(r"(?<!\\)(?:\\\\)*[|<>`*\[\]]", found)

"""Runs on few images, rare image shapes, or unreadable images."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from retinanet.checkpoint.file import read_checkpoint
from retinanet.config.load import load_config
from retinanet.data.build import build_train_sampler, load_train_data
from retinanet.engine.schedule import default_interval
from retinanet.engine.train import train
from retinanet.errors import InputError
from tests.helpers.coco_files import box, document, image, warnings_in
from tests.helpers.metrics import read_metrics

LANDSCAPE, PORTRAIT = (24, 32), (32, 24)


@pytest.fixture
def write_images(tmp_path):
    """Write images of some (height, width) with one object each, and annotations for all but some of them."""

    def write(sizes, without=()):
        (tmp_path / "images").mkdir(exist_ok=True)
        listed = [number for number in range(len(sizes)) if number not in without]
        for number in listed:
            file = tmp_path / f"images/{number}.jpg"
            if not file.exists():
                pixels = np.random.default_rng(number).integers(0, 256, (*sizes[number], 3), dtype=np.uint8)
                Image.fromarray(pixels).save(file)
        images = [
            image(number, file_name=f"{number}.jpg", height=sizes[number][0], width=sizes[number][1])
            for number in listed
        ]
        boxes = [box(number + 1, number, [2, 2, 16, 16]) for number in listed]
        (tmp_path / "train.json").write_text(json.dumps(document(images, boxes)))
        return tmp_path / "images"

    return write


@pytest.fixture
def cfg_of(tmp_path, tiny_overrides):
    def cfg(*overrides):
        own = [
            f"data.train.images={tmp_path / 'images'}",
            f"data.train.annotations={tmp_path / 'train.json'}",
            "data.val=[]",
        ]
        return load_config("quickstart", [*tiny_overrides, "train.log_every=1", *own, *overrides])

    return cfg


# ---- unreadable images


def test_damaged_image_of_a_rare_shape_does_not_stop_the_run(write_images, cfg_of, tmp_path, caplog):
    folder = write_images([LANDSCAPE] * 6 + [PORTRAIT])
    portrait = folder / "6.jpg"
    portrait.write_bytes(portrait.read_bytes()[:-40])
    cfg = cfg_of("train.batch_size=1", "train.steps=7", "train.log_every=7")  # one epoch
    result = train(cfg, tmp_path / "run")
    assert result.step == 7
    (line,) = map(json.loads, (tmp_path / "run/unreadable.jsonl").read_text().splitlines())
    sampler = build_train_sampler(cfg, load_train_data(cfg))
    step = 1 + [next(sampler)[0].index for _ in range(7)].index(6)
    assert (line["path"], line["step"]) == (str(portrait), step)
    assert f"step {step}: {portrait}: damaged or truncated JPEG" in caplog.text
    assert f"replaced by {line['replaced_by']}" in caplog.text


def test_image_that_cannot_be_replaced_is_an_error_that_names_the_step(write_images, cfg_of, tmp_path):
    folder = write_images([LANDSCAPE])
    (folder / "0.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"^step 1: .*0\.jpg: empty file.*no other image as a replacement\)$"):
        train(cfg_of("train.batch_size=1"), tmp_path / "run")


def test_run_resumes_after_its_unreadable_images_were_removed(write_images, cfg_of, tmp_path):
    sizes = [LANDSCAPE] * 9 + [PORTRAIT] * 3
    folder = write_images(sizes)
    damaged = (1, 4, 10)
    for number in damaged:
        (folder / f"{number}.jpg").write_bytes(b"")
    cfg = cfg_of("train.batch_size=6", "train.steps=3", "train.save_every=1", "data.max_unreadable=0")
    with pytest.raises(InputError, match=r"unreadable\.jsonl: lists [123] images .* at most 0"):
        train(cfg, tmp_path / "run")

    write_images(sizes, without=(*damaged, 7))  # one image more than the run recorded as unreadable
    listed = (tmp_path / "train.json").read_text()
    (tmp_path / "train.json").write_text(listed.replace("5.jpg", "other.jpg"))
    (folder / "5.jpg").rename(folder / "other.jpg")
    with pytest.raises(InputError, match=r"trained on 12 images, but data\.train has 8: 5 are missing, 1 are new"):
        train(cfg, tmp_path / "run", resume=True)
    (folder / "other.jpg").rename(folder / "5.jpg")
    (tmp_path / "train.json").write_text(listed)
    assert train(cfg, tmp_path / "run", resume=True).step == 3
    log = (tmp_path / "run/log.txt").read_text()
    assert "data.train now lacks 4 of the 12 images it had" in log
    assert "the sample order changes from here on" in log
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [1, 2, 3]
    images = read_checkpoint(tmp_path / "run/checkpoints/last.pt").state["images"]
    assert len(images["names"]) == 8


def test_run_ends_if_its_epochs_have_become_shorter_than_its_steps(write_images, cfg_of, tmp_path):
    sizes = [LANDSCAPE] * 6
    folder = write_images(sizes)
    cfg = cfg_of("train.batch_size=3", "train.steps=null", "train.epochs=2")
    (folder / "3.jpg").write_bytes(b"")
    assert train(cfg, tmp_path / "run").step == 4
    write_images(sizes, without=(3, 4))  # 2 epochs of 4 images take 3 steps
    assert train(cfg, tmp_path / "run", resume=True).step == 4


# ---- few images


@pytest.mark.parametrize(
    ("num_images", "batch_size", "expected"),
    [
        (10, 16, 20),  # an epoch is less than a step
        (16, 16, 20),
        (17, 16, 20),  # 2 steps; 10 epochs
        (60, 4, 30),  # 15 steps; 2 epochs
        (80, 4, 20),
        (81, 4, 21),
        (118_287, 16, 7393),
    ],
)
def test_evaluations_are_whole_epochs_and_at_least_20_steps_apart(cfg_of, num_images, batch_size, expected):
    cfg = load_config("quickstart", [f"train.batch_size={batch_size}"])
    assert default_interval(cfg.train, num_images) == expected


def test_dataset_smaller_than_the_batch_causes_a_warning_and_few_evaluations(
    write_images, cfg_of, tmp_path, shapes, caplog
):
    write_images([LANDSCAPE, PORTRAIT, LANDSCAPE])
    options = ["train.batch_size=4", "train.steps=5", "train.eval_every=null", "train.save_every=null"]
    validation = f"data.val={{images: {tmp_path / 'images'}, annotations: {tmp_path / 'train.json'}}}"
    assert train(cfg_of(*options, validation), tmp_path / "run").step == 5
    assert [line["step"] for line in read_metrics(tmp_path / "run") if line["kind"] == "eval"] == [5]
    announced = Counter("images repeat within a batch" in message for message in warnings_in(caplog))
    assert announced[True] == 1
    assert "train.batch_size 4 is greater than the number of training images (3)" in caplog.text

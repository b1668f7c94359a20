import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.io import write_png

from retinanet.checkpoint.file import Checkpoint, read_checkpoint
from retinanet.checkpoint.folder import CheckpointFolder
from retinanet.cli import predict as predict_tool
from retinanet.config.load import load_config
from retinanet.detection.postprocess import Postprocess
from retinanet.errors import InputError
from retinanet.inference.predictor import Predictor
from retinanet.model.retinanet import build_model

NAMES = ["one", "two", "three"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A network with random weights that sees things everywhere."""
    torch.manual_seed(0)
    cfg = load_config(
        "quickstart",
        ["data.resize.shorter=64", "data.resize.longer=128", "model.channels=64", "model.prior=0.4", "device=cpu",
         "inference.precision=fp32", "model.backbone.norm=frozen"],
    )  # fmt: skip
    checkpoint = Checkpoint(
        config=cfg,
        class_names=tuple(NAMES),
        category_ids=(3, 5, 9),
        num_images=1,
        step=1,
        state={"model": build_model(cfg.model, len(NAMES)).state_dict()},
    )
    return CheckpointFolder(tmp_path_factory.mktemp("run") / "checkpoints", keep=1).save(checkpoint)


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_detections_are_in_pixels_of_the_image(checkpoint):
    found = Predictor.from_checkpoint(checkpoint)(picture(200, 300))
    assert len(found.boxes) == 100
    assert (found.boxes >= 0).all()
    assert found.boxes[:, 2].max() <= 300 and found.boxes[:, 3].max() <= 200
    assert found.boxes[:, 2].max() > 150  # and not in those of the resized one
    assert (found.scores.diff() <= 0).all()


def test_a_image_is_found_the_same_alone_in_a_batch_and_from_its_file(checkpoint, tmp_path):
    predictor = Predictor.from_checkpoint(checkpoint)
    pictures = [picture(100, 150, 1), picture(150, 100, 2), picture(90, 90, 3), picture(100, 150, 4)]
    write_png(pictures[1], str(tmp_path / "1.png"))
    alone = [predictor(image) for image in pictures]
    together = list(predictor.predict([pictures[0], tmp_path / "1.png", *pictures[2:]], batch_size=3))
    for first, second in zip(alone, together, strict=True):
        torch.testing.assert_close(first.boxes, second.boxes, rtol=1e-3, atol=1e-2)
        assert torch.equal(first.labels, second.labels)


def test_overrides_change_what_is_kept(checkpoint):
    found = Predictor.from_checkpoint(checkpoint, ["postprocess.max_detections=7"])(picture(100, 100))
    assert len(found.scores) == 7


def test_detections_are_those_of_the_network_itself(checkpoint):
    predictor = Predictor.from_checkpoint(checkpoint)
    model = build_model(predictor.cfg.model, len(NAMES)).eval()
    model.load_state_dict(read_checkpoint(checkpoint).weights())
    image = picture(128, 64)  # of the size that its shorter side of 64 gives it, and of a padded shape of the config
    sizes = torch.tensor([[128, 64]])
    padded_shape = torch.zeros(1, 3, 128, 64, dtype=torch.uint8)
    padded_shape[0] = image
    with torch.no_grad():
        (expected,) = Postprocess(**predictor.cfg.postprocess.model_dump())(model(padded_shape, sizes), sizes, sizes)
    found = predictor(image)
    assert len(found.boxes) == len(expected.boxes) == 100
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.boxes, expected.boxes, rtol=0, atol=1e-2)
    assert torch.equal(found.labels, expected.labels)


def test_precision_is_that_of_inference(checkpoint):
    predictor = Predictor.from_checkpoint(checkpoint, ["inference.precision=bf16", "train.precision=fp32"])
    assert predictor.dtype == predictor.model.dtype == torch.bfloat16


def test_the_network_that_was_given_is_not_changed(checkpoint):
    predictor = Predictor.from_checkpoint(checkpoint)
    model = build_model(predictor.cfg.model, len(NAMES)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    Predictor(model, NAMES, [3, 5, 9], predictor.cfg)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_every_padded_shape_is_warmed_up(checkpoint, monkeypatch):
    """One image of any aspect ratio finds its shape among them."""
    predictor = Predictor.from_checkpoint(checkpoint)
    shapes = []
    monkeypatch.setattr(predictor.model, "forward", lambda images, sizes: shapes.append(tuple(images.shape)))
    predictor.warm_up()
    monkeypatch.undo()
    assert len(shapes) == len(set(shapes)) > 1
    used = []
    hook = predictor.model.register_forward_pre_hook(lambda module, inputs: used.append(tuple(inputs[0].shape)))
    for height, width in [(50, 50), (50, 60), (50, 70), (50, 90), (50, 300), (60, 50), (70, 50), (90, 50), (300, 50)]:
        predictor(picture(height, width))
    hook.remove()
    assert set(used) == set(shapes)


def test_compiled_network_takes_images_one_by_one(checkpoint, monkeypatch):
    """Each number of images would be compiled by itself. Here nothing is compiled."""
    monkeypatch.setattr("torch.compile", lambda function, **options: function)
    pictures = [picture(100, 150, seed) for seed in range(3)]
    batches = {}
    for compile in ("false", "true"):
        predictor = Predictor.from_checkpoint(checkpoint, [f"inference.compile={compile}"])
        predictor.model.register_forward_pre_hook(
            lambda module, inputs, compile=compile: batches.setdefault(compile, []).append(len(inputs[0]))
        )
        assert len(list(predictor.predict(pictures))) == 3
    assert batches == {"false": [3], "true": [1, 1, 1]}


def test_weights_that_do_not_fit_an_override_are_refused(checkpoint):
    with pytest.raises(InputError, match="do not fit"):
        Predictor.from_checkpoint(checkpoint, ["model.channels=96"])


@pytest.mark.parametrize(
    "image",
    [torch.zeros(3, 10, 10), torch.zeros(10, 10, 3, dtype=torch.uint8), torch.zeros(3, 0, 4, dtype=torch.uint8)],
)
def test_what_is_no_image_is_refused(checkpoint, image):
    with pytest.raises(InputError, match=r"expected torch\.uint8"):
        Predictor.from_checkpoint(checkpoint)(image)


def test_the_tool_draws_and_writes_results(checkpoint, tmp_path, capsys):
    for folder, seed in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        write_png(picture(60, 80, seed), str(tmp_path / folder / "same.png"))
    output = tmp_path / "found"
    arguments = [str(checkpoint), str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(output)]
    assert predict_tool.main(arguments) == 0
    results = json.loads((output / "detections.json").read_text())
    assert {result["category_id"] for result in results} <= {3, 5, 9}
    assert {result["image_id"] for result in results} == {1, 2}
    assert sorted(path.name for path in output.glob("*.png")) == ["same.png", "same_2.png"]


def test_paths_images_arrays_and_tensors_give_the_same_detections(checkpoint, tmp_path):
    predictor = Predictor.from_checkpoint(checkpoint)
    tensor = picture(90, 120)
    write_png(tensor, str(tmp_path / "1.png"))
    array = tensor.permute(1, 2, 0).numpy()
    inputs = [tmp_path / "1.png", str(tmp_path / "1.png"), Image.fromarray(array), array, array.copy(), tensor]
    expected = predictor(tensor)
    assert len(expected) == 100 and expected.class_names == tuple(NAMES)
    for image in inputs:
        found = predictor(image)
        assert torch.equal(found.boxes, expected.boxes)
        assert torch.equal(found.scores, expected.scores)
        assert torch.equal(found.labels, expected.labels)
    of_list = predictor(inputs)
    assert isinstance(of_list, list) and [len(found) for found in of_list] == [100] * len(inputs)
    assert predictor([]) == []


@pytest.mark.parametrize(
    "image",
    [b"bytes", 3, np.zeros((5, 5, 3), dtype=np.float32), np.zeros((3, 5, 5), dtype=np.uint8), Image.new("F", (5, 5))],
)
def test_other_inputs_are_rejected_with_one_sentence(checkpoint, image):
    with pytest.raises(InputError, match=r"^image is .* expected [^\n]*$"):
        Predictor.from_checkpoint(checkpoint)(image)


def test_detections_are_ordinary_tensors(checkpoint):
    found = Predictor.from_checkpoint(checkpoint)(picture(60, 60))
    found.boxes.mul_(2)
    scale = torch.ones((), requires_grad=True)
    (found.boxes * scale).sum().backward()
    assert not any(tensor.is_inference() for tensor in (found.boxes, found.scores, found.labels))

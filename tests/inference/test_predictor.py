import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.io import write_png

from retinanet.checkpoint.file import Checkpoint, read_checkpoint
from retinanet.checkpoint.folder import CheckpointFolder
from retinanet.cli import predict as predict_command
from retinanet.detection.postprocess import Postprocess
from retinanet.errors import InputError
from retinanet.formats.images.windows import DecodedImage
from retinanet.formats.videos.reader import VideoFrame
from retinanet.inference.predictor import Predictor
from retinanet.model.retinanet import build_model
from tests.helpers.checkpoints import overdetecting_config

NAMES = ["one", "two", "three"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A network with random weights that detects objects everywhere."""
    torch.manual_seed(0)
    cfg = overdetecting_config()
    checkpoint = Checkpoint(
        config=cfg,
        class_names=tuple(NAMES),
        category_ids=(3, 5, 9),
        step=1,
        state={"model": build_model(cfg.model, len(NAMES)).state_dict()},
    )
    return CheckpointFolder(tmp_path_factory.mktemp("run") / "checkpoints", keep=1).save(checkpoint)


@pytest.fixture(scope="module")
def predictor(checkpoint):
    return Predictor.from_checkpoint(checkpoint)


def noise(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_detections_are_in_pixels_of_the_image(checkpoint):
    found = Predictor.from_checkpoint(checkpoint)(noise(200, 300))
    assert len(found.boxes) == 100
    assert (found.boxes >= 0).all()
    assert found.boxes[:, 2].max() <= 300 and found.boxes[:, 3].max() <= 200
    assert found.boxes[:, 2].max() > 150  # not in pixels of the resized image
    assert (found.scores.diff() <= 0).all()


def test_detections_do_not_depend_on_the_batch_or_the_file(checkpoint, tmp_path):
    predictor = Predictor.from_checkpoint(checkpoint)
    # The first and third image share a batch, so their results are available before that of the second.
    images = [noise(100, 150, 1), noise(150, 100, 2), noise(100, 150, 4), noise(90, 90, 3)]
    write_png(images[1], str(tmp_path / "1.png"))
    separate = [predictor(image) for image in images]
    together = list(predictor.predict([images[0], tmp_path / "1.png", *images[2:]], batch_size=3))
    for first, second in zip(separate, together, strict=True):
        torch.testing.assert_close(first.boxes, second.boxes, rtol=1e-3, atol=1e-2)
        assert torch.equal(first.labels, second.labels)


def test_overrides_change_the_postprocessing(checkpoint):
    found = Predictor.from_checkpoint(checkpoint, ["postprocess.max_detections=7"])(noise(100, 100))
    assert len(found.scores) == 7


def test_detections_are_those_of_the_network_itself(checkpoint):
    predictor = Predictor.from_checkpoint(checkpoint)
    model = build_model(predictor.cfg.model, len(NAMES)).eval()
    model.load_state_dict(read_checkpoint(checkpoint).weights())
    image = noise(128, 64)  # resizing would not change its size, which is a padded shape of the config
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


@pytest.mark.parametrize(("val_shorter", "side"), [("null", 64), ("48", 48), ("80", 80)])
def test_images_are_resized_as_in_evaluation(checkpoint, val_shorter, side):
    overrides = ["data.resize.shorter=[32, 64]", f"data.resize.val_shorter={val_shorter}"]
    predictor, sizes = Predictor.from_checkpoint(checkpoint, overrides), []
    predictor.model.register_forward_pre_hook(lambda module, inputs: sizes.append(inputs[1].tolist()))
    predictor(noise(100, 100))
    assert sizes == [[[side, side]]]


def test_precision_comes_from_the_inference_section(checkpoint):
    predictor = Predictor.from_checkpoint(checkpoint, ["inference.precision=bf16", "train.precision=fp32"])
    assert predictor.dtype == predictor.model.dtype == torch.bfloat16


def test_given_network_is_not_changed(checkpoint):
    predictor = Predictor.from_checkpoint(checkpoint)
    model = build_model(predictor.cfg.model, len(NAMES)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    Predictor(model, NAMES, [3, 5, 9], predictor.cfg)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_every_padded_shape_is_warmed_up(checkpoint, monkeypatch):
    """Images of any aspect ratio get one of the warmed-up shapes."""
    predictor = Predictor.from_checkpoint(checkpoint)
    shapes = []
    monkeypatch.setattr(predictor.model, "forward", lambda images, sizes: shapes.append(tuple(images.shape)))
    predictor.warm_up()
    monkeypatch.undo()
    assert len(shapes) == len(set(shapes)) > 1
    used = []
    hook = predictor.model.register_forward_pre_hook(lambda module, inputs: used.append(tuple(inputs[0].shape)))
    for height, width in [(50, 50), (50, 60), (50, 70), (50, 90), (50, 300), (60, 50), (70, 50), (90, 50), (300, 50)]:
        predictor(noise(height, width))
    hook.remove()
    assert set(used) == set(shapes)


def test_compiled_network_processes_images_one_by_one(checkpoint, monkeypatch):
    """Every batch size would be compiled separately. This test does not compile anything."""
    monkeypatch.setattr("torch.compile", lambda function, **options: function)
    images = [noise(100, 150, seed) for seed in range(3)]
    batches = {}
    for compile in ("false", "true"):
        predictor = Predictor.from_checkpoint(checkpoint, [f"inference.compile={compile}"])
        predictor.model.register_forward_pre_hook(
            lambda module, inputs, compile=compile: batches.setdefault(compile, []).append(len(inputs[0]))
        )
        assert len(list(predictor.predict(images))) == 3
    assert batches == {"false": [3], "true": [1, 1, 1]}


def test_weights_that_do_not_fit_an_override_are_rejected(checkpoint):
    with pytest.raises(InputError, match="do not fit"):
        Predictor.from_checkpoint(checkpoint, ["model.channels=96"])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(3, 10, 10), "image is torch.float32 (3, 10, 10), expected torch.uint8 (3, H, W), RGB"),
        (torch.zeros(10, 10, 3, dtype=torch.uint8), "image is torch.uint8 (10, 10, 3), expected"),
        (torch.zeros(3, 0, 4, dtype=torch.uint8), "image is torch.uint8 (3, 0, 4), expected"),
        (np.zeros((10, 10, 3)), "image is an array of float64 (10, 10, 3), expected RGB uint8 (H, W, 3)"),
        (np.zeros((3, 10, 10), dtype=np.uint8), "image is an array of uint8 (3, 10, 10), expected"),
        (np.zeros((10, 10), dtype=np.uint8), "image is an array of uint8 (10, 10), expected"),
        (Image.fromarray(np.zeros((9, 9), dtype=np.uint16)), "image is a PIL image of mode I;16, expected 8 bits"),
        (b"\x89PNG", "4 bytes: not an image, or its header is damaged"),
        (3, "image is int, expected a path, the bytes of a file, a PIL image, an RGB uint8 array"),
        (None, "image is NoneType, expected a path"),
    ],
)
def test_invalid_inputs_are_rejected_with_one_sentence(predictor, image, message):
    with pytest.raises(InputError) as error:
        predictor(image)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_every_supported_input_type_gives_the_same_detections(predictor, tmp_path):
    image = noise(60, 80)
    write_png(image, str(tmp_path / "image.png"))
    array = image.permute(1, 2, 0).numpy()
    expected = predictor(image)
    file = tmp_path / "image.png"
    inputs = [file, str(file), file.read_bytes(), array, Image.fromarray(array)]
    for detections in map(predictor, inputs):
        assert torch.equal(detections.boxes, expected.boxes)
        assert torch.equal(detections.scores, expected.scores)
        assert torch.equal(detections.labels, expected.labels)
    of_list = predictor(inputs)
    assert isinstance(of_list, list)
    # A batch of five is summed in a different order than a batch of one.
    for detections in [*of_list, *predictor.predict(iter(inputs))]:
        torch.testing.assert_close(detections.boxes, expected.boxes, rtol=1e-3, atol=1e-2)
        assert torch.equal(detections.labels, expected.labels)
    assert predictor([]) == []


def test_pil_image_is_rotated_like_its_file(predictor, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    Image.fromarray(noise(30, 40).permute(1, 2, 0).numpy()).save(tmp_path / "rotated.png", exif=exif)
    with Image.open(tmp_path / "rotated.png") as opened:
        from_pil, from_file = predictor(opened), predictor(tmp_path / "rotated.png")
    assert torch.equal(from_pil.boxes, from_file.boxes) and torch.equal(from_pil.scores, from_file.scores)
    assert from_pil.boxes[:, 3].max() > 30  # the rotated image is 40 pixels high


def test_one_image_instead_of_several_is_rejected(predictor):
    frame = VideoFrame(0, 0.0, noise(9, 9))
    for image in (noise(9, 9), "image.png", np.zeros((9, 9, 3), dtype=np.uint8), frame):
        with pytest.raises(InputError, match="predict expects several images, found one"):
            predictor.predict(image)


def test_batches_without_images_are_rejected(predictor):
    with pytest.raises(InputError, match="batch_size is 0, expected at least 1"):
        predictor.predict([noise(9, 9)], batch_size=0)
    with pytest.raises(InputError, match="batch_size is -1, expected at least 1"):
        predictor.detect_in(DecodedImage(noise(9, 9)), batch_size=-1)


def test_detections_are_ordinary_tensors_and_name_their_classes(predictor):
    detections = predictor(noise(60, 80))
    detections.boxes.mul_(2)  # an inference tensor would raise an error
    scale = torch.ones(1, requires_grad=True)
    (detections.boxes * scale).sum().backward()
    assert scale.grad is not None
    assert not detections.scores.is_inference() and not detections.labels.requires_grad
    assert detections.class_names == ("one", "two", "three")
    assert len(detections[detections.scores > 2]) == 0


def test_command_draws_images_and_writes_results(checkpoint, tmp_path, capsys):
    for folder, seed in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        write_png(noise(60, 80, seed), str(tmp_path / folder / "same.png"))
    output = tmp_path / "found"
    arguments = [str(checkpoint), str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(output)]
    assert predict_command.main(arguments) == 0
    results = json.loads((output / "detections.json").read_text())["annotations"]
    assert {result["category_id"] for result in results} <= {3, 5, 9}
    assert {result["image_id"] for result in results} == {1, 2}
    assert sorted(path.relative_to(output).as_posix() for path in output.rglob("*.png")) == ["a/same.png", "b/same.png"]

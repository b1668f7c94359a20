"""Write detections as YOLO label files."""

from retinanet.prediction.outputs import CLASSES_FILE, OutputFolder, label_name
from retinanet.prediction.results import ImageResult, Results


def write_yolo(results: Results, folder: OutputFolder) -> None:
    """Write a label file for each image, empty if there are no objects, and `classes.txt` with the class names.

    A line has the label, the centre, width and height of the box as fractions of the image, and the score.
    """
    folder.write(CLASSES_FILE, "".join(f"{name}\n" for name in results.class_names).encode())
    for image in results:
        folder.write(label_name(image.stem), "".join(_lines(image)).encode())


def _lines(image: ImageResult) -> list[str]:
    width, height = image.width, image.height
    return [
        f"{label} {(x1 + x2) / 2 / width:.7g} {(y1 + y2) / 2 / height:.7g} {(x2 - x1) / width:.7g} "
        f"{(y2 - y1) / height:.7g} {score:.7g}\n"
        for (x1, y1, x2, y2), score, label in zip(image.boxes, image.scores, image.labels, strict=True)
    ]

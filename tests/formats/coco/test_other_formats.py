"""JSON annotations in other formats are recognised, and messages say what to do."""

import json

import pytest

from retinanet.formats.coco.other_formats import describe_form
from tests.helpers.coco_files import box, document, error_of, image

IMAGES = {"images": [{"id": 1, "file_name": "a.png", "width": 4, "height": 4}]}
CATEGORIES = {"categories": [{"id": 1, "name": "cat"}]}
SHAPE = {"label": "cat", "points": [[0, 0], [1, 1]], "shape_type": "rectangle"}
FORMS = {
    "captions": (IMAGES | {"annotations": [{"image_id": 1, "id": 1, "caption": "A cat."}]}, "is COCO captions"),
    "panoptic": (
        IMAGES | CATEGORIES | {"annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": []}]},
        "is COCO panoptic segmentation",
    ),
    "image_info": (IMAGES | CATEGORIES, "is a COCO list of images without annotations (image_info)"),
    "results": ([{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5}], "is COCO results"),
    "VIA project": ({"_via_settings": {}, "_via_img_metadata": {}}, "is a project or export of VGG Image Annotator"),
    "VIA export": (
        {"a.png123": {"filename": "a.png", "size": 123, "regions": [], "file_attributes": {}}},
        "is a project or export of VGG Image Annotator; in VIA, use Annotation > Export Annotations (COCO format)",
    ),
    "labelme": (
        {"version": "5", "shapes": [SHAPE], "imagePath": "a.png"},
        "is the annotation of one image in labelme format; set data.",
    ),
    "CreateML": ([{"image": "a.png", "annotations": [{"label": "cat", "coordinates": {}}]}], "is in CreateML format"),
    "Label Studio": ([{"id": 1, "data": {"image": "a.png"}, "annotations": []}], "is an export of Label Studio"),
    "BDD100K": ([{"name": "a.png", "labels": []}], "is in BDD100K (Scalabel) format; export the annotations in COCO"),
    "GeoJSON": ({"type": "FeatureCollection", "features": []}, "is GeoJSON"),
    "Datumaro": ({"info": {}, "categories": {}, "items": []}, "is in Datumaro format"),
}


@pytest.mark.parametrize("name", FORMS)
def test_error_names_the_format(source, name):
    content, message = FORMS[name]
    some = source(json.dumps(content).encode()).model_copy(update={"format": "coco"})
    assert error_of(some).startswith(f"some.json: {message}")


@pytest.mark.parametrize("content", [None, 3, "a", [], [3], {}, {"annotations": {}}, {"annotations": [3]}, {"a": [{}]}])
def test_other_json_is_not_described(content):
    assert describe_form(content) is None


def test_coco_files_are_not_described():
    keypoints = box(1, 1, [0, 0, 5, 5], keypoints=[1, 2, 2], num_keypoints=1)
    assert describe_form(document([image(1)], [keypoints])) is None
    assert describe_form(document([image(1)])) is None

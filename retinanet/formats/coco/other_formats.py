"""Recognise JSON annotations in formats other than COCO, and explain how to use or convert them."""

from typing import Any

_EXPORT = "export the annotations in COCO format"


def describe_form(document: Any) -> str | None:
    """Describe a document that has no COCO boxes, and give advice; return None if its format is unknown."""
    if isinstance(document, dict):
        return _describe_dict(document)
    if isinstance(document, list) and document and isinstance(document[0], dict):
        return _describe_list(document[0])
    return None


def _describe_dict(document: dict[str, Any]) -> str | None:
    first = _first_of(document.get("annotations"))
    if "segments_info" in first:
        return "COCO panoptic segmentation, which has no boxes; use the matching instances_*.json"
    if "caption" in first and "bbox" not in first:
        return "COCO captions, which have no boxes; use the matching instances_*.json"
    if "question_id" in first:
        return "VQA annotations, which have no boxes; use the matching instances_*.json"
    if "shapes" in document and ("imagePath" in document or "imageData" in document):
        return (
            "the annotation of one image in labelme format; set data.*.annotations to its folder, and "
            "data.*.format to labelme"
        )
    if "_via_img_metadata" in document or _is_via(next(iter(document.values()), None)):
        return "a project or export of VGG Image Annotator; in VIA, use Annotation > Export Annotations (COCO format)"
    if isinstance(document.get("images"), list) and "annotations" not in document and "categories" in document:
        return "a COCO list of images without annotations (image_info); use a file with annotations"
    if document.get("type") == "FeatureCollection":
        return "GeoJSON; convert its coordinates to pixels, and write COCO or CSV"
    if isinstance(document.get("items"), list) and "categories" in document:
        return f"in Datumaro format; {_EXPORT}"
    if "openlabel" in document or "database" in document:
        return f"an annotation database; {_EXPORT}"
    return None


def _describe_list(first: dict[str, Any]) -> str | None:
    if "image_id" in first and "score" in first:
        return "COCO results (detections with scores), not annotations; use the annotations of the same images"
    if "image" in first and isinstance(first.get("annotations"), list):
        return f"in CreateML format; {_EXPORT}"
    if "data" in first and ("annotations" in first or "completions" in first):
        return "an export of Label Studio; in Label Studio, export as COCO"
    if "Labeled Data" in first or "Label" in first:
        return f"an export of Labelbox; {_EXPORT}"
    if "name" in first and "labels" in first:
        return f"in BDD100K (Scalabel) format; {_EXPORT}"
    return None


def _first_of(items: Any) -> dict[str, Any]:
    return items[0] if isinstance(items, list) and items and isinstance(items[0], dict) else {}


def _is_via(entry: Any) -> bool:
    return isinstance(entry, dict) and "filename" in entry and "regions" in entry

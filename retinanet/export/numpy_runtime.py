"""Prepare images for an exported detector and turn its outputs into detections. Needs only NumPy: copy this file.

`metadata` is the dict stored in the exported file; docs/export.md has a complete client.
"""

import numpy as np


def prepare(images, metadata):
    """Resize and pad images of one padded shape: uint8 (H, W, C) each -> images (B, C, H, W), image_sizes (B, 2)."""
    padded = [padded_shape(*image.shape[:2], metadata) for image in images]
    if len(set(padded)) > 1:
        raise ValueError(f"images have the padded shapes {sorted(set(padded))}; pass images of one shape together")
    batch = np.zeros((len(images), *padded[0], images[0].shape[2]), np.uint8)
    sizes = np.array([resized_size(*image.shape[:2], metadata) for image in images], np.int64)
    for row, image, (height, width) in zip(batch, images, sizes, strict=True):
        row[:height, :width] = resize(image, height, width)
    return np.ascontiguousarray(batch.transpose(0, 3, 1, 2)), sizes


def resized_size(height, width, metadata):
    """Size of an image after resizing."""
    scale = min(metadata["shorter"] / min(height, width), metadata["longer"] / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def padded_shape(height, width, metadata):
    """Padded shape of an image: that of its aspect-ratio bucket."""
    shorter, longer, divisor = metadata["shorter"], metadata["longer"], metadata["divisor"]
    aspect = max(height, width) / min(height, width)
    fitting = [known for known in sorted(metadata["bucket_aspects"]) if aspect <= known]
    longest = min(shorter * fitting[0], longer) if fitting else longer
    short, long = (-(-int(side + 0.5) // divisor) * divisor for side in (shorter, longest))
    shape = (short, long) if width >= height else (long, short)
    if metadata["padded_shape"] and shape != tuple(metadata["padded_shape"]):
        raise ValueError(f"image of {width}x{height} has the padded shape {shape}, expected {metadata['padded_shape']}")
    return shape


def resize(image, height, width):
    """Resize bilinearly with antialiasing, with the rounding of Pillow and torchvision: the same pixels."""
    image = _resize_rows(image.swapaxes(0, 1), width).swapaxes(0, 1) if width != image.shape[1] else image
    return _resize_rows(image, height) if height != image.shape[0] else image


def _resize_rows(image, new):
    """Weighted means of rows, with a triangle filter that is as wide as a new row and at least as wide as an old one.

    Weights are integers of 16 bits with as many fractional digits as fit.
    """
    old = image.shape[0]
    scale = max(old / new, 1)
    centres = (np.arange(new) + 0.5) * (old / new)
    weights = np.clip(1 - np.abs(np.arange(old) - centres[:, None] + 0.5) / scale, 0, None)
    weights /= weights.sum(axis=1, keepdims=True)
    digits = next(digits for digits in range(22) if int(0.5 + weights.max() * 2 ** (digits + 1)) >= 2**15)
    weights = np.floor(weights * 2**digits + 0.5)
    sums = (weights @ image.reshape(old, -1).astype(np.float64)).reshape(new, *image.shape[1:])
    return np.clip(np.floor(sums / 2**digits + 0.5), 0, 255).astype(np.uint8)


def detections(outputs, image_sizes, original_sizes, metadata):
    """Boxes (D, 4) in pixels of the original image, scores (D,) and labels (D,) of each image, best first."""
    results = []
    for boxes, scores, labels, size, original in zip(*outputs, image_sizes, original_sizes, strict=True):
        keep = (scores > metadata["min_score"]) & (labels >= 0) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        boxes, scores, labels = boxes[keep], scores[keep], labels[keep]
        if metadata["nms"] == "outside":
            groups = labels * 0 if metadata["nms_across_classes"] else labels
            kept = nms(boxes, scores, groups, metadata["nms_iou"])[: metadata["max_detections"]]
            boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
        if metadata["thresholds"]:
            keep = scores > np.array(metadata["thresholds"], np.float32)[labels]
            boxes, scores, labels = boxes[keep], scores[keep], labels[keep]
        results.append((boxes * np.tile((original / size)[::-1], 2).astype(np.float32), scores, labels))
    return results


def nms(boxes, scores, groups, max_iou):
    """Indices of the boxes that no better box of their group overlaps by more than `max_iou`, best first."""
    order = np.argsort(-scores, kind="stable")
    boxes, groups = boxes[order].astype(np.float64), groups[order]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    is_left, kept = np.ones(len(order), bool), []
    for index in range(len(order)):
        if is_left[index]:
            kept.append(order[index])
            low, high = np.maximum(boxes[index, :2], boxes[:, :2]), np.minimum(boxes[index, 2:], boxes[:, 2:])
            shared = np.clip(high - low, 0, None).prod(axis=1)
            is_left &= (groups != groups[index]) | (shared <= max_iou * (areas + areas[index] - shared))
    return np.array(kept, np.int64)

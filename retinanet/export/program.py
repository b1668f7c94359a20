"""The part of a detector that is exported, from uint8 images to boxes, and its conversion by torch.export."""

import torch
import torchvision
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as symbolic_shapes

from retinanet.detection.postprocess import Postprocess
from retinanet.model.retinanet import RetinaNet
from retinanet.structures import HeadOutputs

INPUTS, OUTPUTS = ("images", "image_sizes"), ("boxes", "scores", "labels")
MAX_BATCH, MAX_SIDE = 64, 8192  # bounds of the dynamic sizes
NOTHING = -1  # label and score of unused rows in the output


class DetectionProgram(nn.Module):
    """Computes boxes, scores and labels from uint8 images: normalisation, network, decoding and, optionally, NMS.

    Resizing is outside: the caller resizes and pads images as for the `Predictor`.

    Args:
        network: network in evaluation mode, in float32, on the CPU.
        postprocess: selects and suppresses boxes.
        thresholds: score threshold of each class, (K,), applied after NMS; None: only `postprocess.min_score` applies.
        nms: apply `postprocess.min_score` and NMS, keep the best `postprocess.max_detections` boxes, and apply the
            thresholds. Otherwise, return the candidates for NMS.
    """

    thresholds: Tensor

    def __init__(
        self, network: RetinaNet, postprocess: Postprocess, *, thresholds: tuple[float, ...] | None, nms: bool
    ):
        super().__init__()
        self.network = network
        self.postprocess = postprocess
        self.nms = nms
        self.register_buffer("thresholds", torch.tensor(thresholds or [0.0] * network.head.num_classes))

    def forward(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detect objects.

        Args:
            images: (B, C, H, W) uint8, padded.
            image_sizes: (B, 2) int64, height and width of each image without padding.

        Returns: boxes (B, D, 4) float32 in pixels of the padded images, scores (B, D) float32 and labels (B, D) int64.
            With NMS, rows are sorted by score; rows with label and score -1 and box 0 are unused. Without, they are the
            candidates of all levels, in no particular order.
        """
        network = self.network
        pyramid = network.fpn(network.backbone(network.normalise(images, image_sizes)))
        class_logits, box_deltas, *quality = network.head(pyramid)
        anchors = [
            network.anchors.on_grid(level, *feature.shape[-2:], *images.shape[-2:])
            for level, feature in enumerate(pyramid)
        ]
        outputs = HeadOutputs(class_logits, box_deltas, anchors, *quality)
        scores, boxes, labels = self.postprocess.candidates(outputs, image_sizes)
        return self.suppress(boxes, scores, labels) if self.nms else (boxes, scores, labels)

    def suppress(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Apply thresholds and NMS to candidates; shapes are as in `forward`."""
        has_area = (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)
        counts = has_area & boxes.isfinite().all(dim=-1) & (scores > self.postprocess.min_score)
        scores = torch.where(counts, scores, NOTHING)
        boxes = torch.where(counts[..., None], boxes, 0)
        kept = torch.zeros_like(scores).flatten().index_fill(0, self.kept_by_nms(boxes, scores, labels), 1)
        scores = torch.where(kept.view(scores.shape) > 0, scores, NOTHING)
        scores, best = scores.topk(torch.sym_min(self.postprocess.max_detections, scores.shape[1]), dim=1)
        boxes, labels = boxes.gather(1, best[..., None].expand(-1, -1, 4)), labels.gather(1, best)
        is_used = scores > self.thresholds[labels].clamp(min=0)
        boxes, scores = torch.where(is_used[..., None], boxes, 0), torch.where(is_used, scores, NOTHING)
        return boxes, scores, torch.where(is_used, labels, NOTHING)

    def kept_by_nms(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        """Apply NMS to all images and classes in one call; return the indices of kept boxes in the flattened batch.

        Each class of each image is moved to its own cell of a square grid: in a row, as `nms_by_group` does in
        float64, coordinates would lose a tenth of a pixel in float32, the only type that ONNX's operator supports.
        """
        num_classes = self.thresholds.shape[0]
        image = torch.arange(boxes.shape[0])[:, None]
        group = image * num_classes + (0 if self.postprocess.nms_across_classes else labels)  # (B, D)
        cells = int((MAX_BATCH * num_classes) ** 0.5) + 1  # per row
        spacing = boxes.max() + 1
        shift = torch.stack([group % cells, group // cells], dim=-1) * spacing
        # The time for NMS is quadratic in the number of boxes, and most candidates are below `min_score`.
        compared = (scores.view(-1) > NOTHING).nonzero()[:, 0]
        kept = torchvision.ops.nms(
            (boxes + shift.repeat(1, 1, 2)).view(-1, 4)[compared],
            scores.view(-1)[compared],
            self.postprocess.nms_iou,
        )
        return compared[kept]


def export_program(program: DetectionProgram, *, divisor: int, size: tuple[int, int] | None = None) -> ExportedProgram:
    """Convert a program with torch.export, for any batch size and any padded shape.

    Args:
        divisor: sides of the padded shapes are multiples of this number.
        size: the only padded shape, (height, width); None: any.
    """
    channels = program.network.mean.shape[1]
    # The sides differ, even on the coarsest feature map, so torch.export does not assume that they are equal or 1.
    coarsest = program.network.anchors.strides[-1]
    height, width = size or (-(-factor * coarsest // divisor) * divisor for factor in (3, 4))
    images = torch.zeros(2, channels, height, width, dtype=torch.uint8)  # batches of 1 would become a constant
    image_sizes = torch.tensor([[height, width]] * 2)
    batch = Dim("batch", min=1, max=MAX_BATCH)
    sides = {}
    if size is None:
        sides = {
            axis: divisor * Dim(name, min=1, max=MAX_SIDE // divisor) for axis, name in ((2, "rows"), (3, "columns"))
        }
    _register_fake_nms()
    # Otherwise, tracing adds guards for sizes of 1, such as those of P7 in a small image.
    with symbolic_shapes.patch(backed_size_oblivious=True):
        return torch.export.export(
            program.eval(), (images, image_sizes), dynamic_shapes=({0: batch, **sides}, {0: batch})
        )


def _register_fake_nms() -> None:
    """Make tracing accept any number of boxes as the result of NMS.

    torchvision 0.29 declares at least 2, so exported programs would fail if fewer boxes are kept.
    """

    @torch.library.register_fake("torchvision::nms", allow_override=True)
    def fake_nms(boxes: Tensor, scores: Tensor, max_iou: float) -> Tensor:
        return boxes.new_empty((torch.library.get_ctx().new_dynamic_size(),), dtype=torch.int64)

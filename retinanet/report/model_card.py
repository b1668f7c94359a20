"""Model card of a published folder: Markdown with YAML front matter, as model hubs read it."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from retinanet import __version__
from retinanet.checkpoint.file import Checkpoint
from retinanet.config import Config, DataSource, InferenceConfig, TrainConfig
from retinanet.config.facts import affects_results
from retinanet.config.flat import flat_config
from retinanet.config.public import public_config, public_name
from retinanet.config.yaml_loader import dump_yaml
from retinanet.inference.thresholds import DEFAULT_THRESHOLD
from retinanet.report.scores import CardScores, ClassScores, Interval
from retinanet.runtime.console import escape_controls

TAGS = ["object-detection", "retinanet", "focal-loss", "computer-vision"]
_SPECIAL = re.compile(r"[\\`*\[\]|<>]|(?<!\w)_|_(?!\w)")
_FACT = re.compile(r"[\w .,+()-]+")


def render_card(
    checkpoint: Checkpoint,
    *,
    name: str,
    scores: CardScores | None,
    environment: Mapping[str, Any],
    license: str | None = None,
    dataset: str | None = None,
) -> str:
    """Render the card of a checkpoint. Paths in the config and the environment are omitted.

    Args:
        name: name of the published folder, or its id on a hub.
        scores: scores of the weights; None: they were not evaluated.
        environment: environment record of the run; empty if there is none.
        license: identifier of the licence, such as `apache-2.0`.
        dataset: what the data is; None: the names of the annotation files, without their folders.
    """
    cfg = public_config(checkpoint.config)
    recipe = _recipe(cfg)
    columns, rows = _class_table(checkpoint, scores)
    data = checkpoint.config.data
    evaluated = scores.data if scores and scores.data else _names(data.val)
    scored_on = ", ".join(evaluated) or "the validation set of the run"
    values = {
        "front_matter": dump_yaml(_front_matter(name, scores, license=license, data=scored_on)),
        "name": name,
        "id": json.dumps(name, ensure_ascii=False),
        "version": __version__,
        "model_rows": _model_rows(cfg, checkpoint),
        "has_thresholds": checkpoint.thresholds is not None,
        "default_threshold": f"{DEFAULT_THRESHOLD:g}",
        "min_score": f"{cfg.postprocess.min_score:g}",
        "scores": scores,
        "headline": scores and _headline(scores, scored_on),
        "metric_rows": _metric_rows(scores),
        "class_columns": columns,
        "class_rows": rows,
        "data": dataset or ", ".join(_names(data.train)) or "not stated",
        "recipe_rows": _recipe_rows(cfg, checkpoint),
        "recipe": recipe,
        "fence": "`" * max(3, *(len(run) + 1 for run in re.findall("`+", recipe)), 3),
        "environment_rows": _environment_rows(environment),
        "license": license,
    }
    renderer = Environment(
        loader=PackageLoader("retinanet.report", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    renderer.filters["plain"] = plain
    return renderer.get_template("model_card.md").render(values)


def plain(text: object) -> str:
    """Escape text so that Markdown shows it literally, on one line."""
    return _SPECIAL.sub(r"\\\g<0>", " ".join(escape_controls(str(text)).split()))


def _front_matter(name: str, scores: CardScores | None, *, license: str | None, data: str) -> dict[str, Any]:
    values: dict[str, Any] = {"license": license} if license else {}
    values |= {"library_name": "retinanet", "pipeline_tag": "object-detection", "tags": TAGS}
    if scores is None or "AP" not in scores.metrics:
        return values
    task = {"type": "object-detection", "name": "Object detection"}
    metrics = [
        {"type": "mean_average_precision", "name": name, "value": round(value, 4)}
        for name, value in scores.metrics.items()
        if name in ("AP", "AP50")
    ]
    slug = re.sub(r"[^a-z0-9]+", "-", data.lower()).strip("-") or "validation"
    result = {"task": task, "dataset": {"name": data, "type": slug}, "metrics": metrics}
    return values | {"model-index": [{"name": name.rpartition("/")[2], "results": [result]}]}


def _model_rows(cfg: Config, checkpoint: Checkpoint) -> list[tuple[str, str]]:
    model, resize, anchors = cfg.model, cfg.data.resize, cfg.model.anchors
    count = sum(tensor.numel() for tensor in checkpoint.weights().values())
    shorter = resize.val_shorter or max(resize.shorter)
    postprocess = cfg.postprocess
    across = " across classes" if postprocess.nms_across_classes else ""
    soft = "" if postprocess.soft_nms is None else f"soft ({postprocess.soft_nms}), "
    return [
        ("backbone", model.backbone.name),
        ("parameters", f"{count / 1e6:.1f} million"),
        ("feature pyramid", f"{model.channels} channels, levels {model.levels}"),
        ("anchor sizes", f"{_numbers(anchors.sizes)} pixels, each at {len(anchors.scales)} scales"),
        ("anchor ratios", f"{_numbers(anchors.aspect_ratios)} (height / width)"),
        ("image size", f"shorter side {shorter} pixels, longer side at most {resize.longer}"),
        ("mean of each channel", _numbers(model.mean)),
        ("standard deviation", _numbers(model.std)),
        ("class scores", model.class_activation),
        (
            "NMS",
            f"{soft}IoU {postprocess.nms_iou:g}{across}, at most {postprocess.max_detections} detections per image",
        ),
        *_view_rows(cfg.inference),
    ]


def _view_rows(inference: InferenceConfig) -> list[tuple[str, str]]:
    """The rows about tiles and test-time augmentation, if they are used."""
    tile, augment = inference.tile, inference.augment
    copies = [f"scale {scale:g}" for scale in augment.scales] + ["flipped"] * augment.flip
    rows = [("test-time augmentation", ", ".join(copies))] if copies else []
    if tile.size is not None:
        rows.append(("tiles", f"{tile.size} pixels, overlap {tile.overlap:g}"))
    return rows


def _recipe_rows(cfg: Config, checkpoint: Checkpoint) -> list[tuple[str, str]]:
    train = cfg.train
    average = f"; averaged with decay {train.ema_decay:g}" if train.ema_decay else ""
    start = train.init_from or f"{cfg.model.backbone.weights} (backbone)"
    held_out = checkpoint.config.data.val_fraction
    return [
        *([("validation set", f"{held_out:g} of the training images, held out")] if held_out else []),
        ("length", f"{checkpoint.step} steps of {train.batch_size} images"),
        ("initial weights", start),
        ("optimizer", f"{train.optimizer.type}, lr {train.optimizer.lr:g}, schedule {train.schedule.type}{average}"),
        ("losses", f"{cfg.loss.classification.type} (class), {cfg.loss.box.type} (box)"),
        ("augmentation", ", ".join(step.type for step in cfg.data.transforms)),
        ("seed", str(train.seed)),
    ]


def _recipe(cfg: Config) -> str:
    """The keys that affect results and differ from their defaults, as YAML."""
    default = flat_config(Config(train=TrainConfig(steps=1)))
    del default["train.steps"]  # there is no default run length
    values: dict[str, Any] = {}
    for key, value in flat_config(cfg).items():
        is_default = key in default and default[key] == value
        if is_default or not affects_results(key) or (key == "train.steps" and value is None):
            continue
        *sections, leaf = key.split(".")
        section = values
        for part in sections:
            section = section.setdefault(part, {})
        section[leaf] = value
    return dump_yaml(values)


def _headline(scores: CardScores, data: str) -> str:
    if "AP" not in scores.metrics:
        return f"AP could not be measured on {data}: there are no objects that count."
    text = f"AP {scores.metrics['AP']:.3f}"
    if "AP" in scores.intervals:
        resamples = f", {scores.resamples} bootstrap resamples of the images" if scores.resamples else ""
        text += f" (95 % interval {_interval(scores.intervals['AP'])}{resamples})"
    if scores.is_from_training:
        return f"{text} on {data}, measured in the training run at this step; no interval was computed."
    return f"{text} on {data}. AP is the mean over IoU 0.50 to 0.95."


def _metric_rows(scores: CardScores | None) -> list[tuple[str, str, str]]:
    if scores is None:
        return []
    return [
        (name, f"{value:.3f}", _interval(scores.intervals.get(name)) or "-") for name, value in scores.metrics.items()
    ]


def _class_table(checkpoint: Checkpoint, scores: CardScores | None) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the class table; columns without any value are omitted."""
    thresholds = checkpoint.thresholds or (None,) * len(checkpoint.class_names)
    found = scores.classes if scores else {}
    rows = []
    for label, (name, category_id, threshold) in enumerate(
        zip(checkpoint.class_names, checkpoint.category_ids, thresholds, strict=True)
    ):
        of_class = found.get(name, ClassScores())
        rows.append(
            {
                "label": str(label),
                "class": name,
                "category id": str(category_id),
                "objects": "" if of_class.num_objects is None else str(of_class.num_objects),
                "AP": _score(of_class.ap),
                "95 % interval": _interval(of_class.interval),
                "AP50": _score(of_class.ap50),
                "score threshold": _score(threshold),
            }
        )
    columns = [column for column in rows[0] if any(row[column] for row in rows)]
    return columns, [[row[column] or "-" for column in columns] for row in rows]


def _environment_rows(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Select the relevant rows of an environment record, without commands, folders and the system's build name."""
    packages = environment.get("packages")
    packages = packages if isinstance(packages, dict) else {}
    capability, threads = environment.get("cpu_capability"), environment.get("threads")
    facts = {
        "retinanet": environment.get("retinanet"),
        "commit": environment.get("git_commit"),
        "Python": environment.get("python"),
        "torch": packages.get("torch"),
        "torchvision": packages.get("torchvision"),
        "system": str(environment.get("platform", "")).partition("-")[0],
        "device": environment.get("accelerator") or (capability and f"CPU ({capability}, {threads} thread(s))"),
    }
    return [(name, fact) for name, fact in facts.items() if isinstance(fact, str) and _FACT.fullmatch(fact)]


def _names(sources: Sequence[DataSource]) -> list[str]:
    return [name for source in sources if (name := public_name(source.annotations))]


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _interval(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"

from pathlib import Path

from retinanet.config import Config, StrictModel
from retinanet.config.base import models_in
from retinanet.config.document import PAGE, config_page


def records(model: type[StrictModel]) -> set[type[StrictModel]]:
    parts = {part for field in model.model_fields.values() for part in models_in(field.annotation)}
    return {model}.union(*(records(part) for part in parts))


def test_committed_page_is_current():
    page = Path(__file__).parents[2] / PAGE
    assert page.read_text(encoding="utf-8") == config_page(), "run python -m retinanet.config"


def test_every_key_has_a_description():
    missing = [
        f"{model.__name__}.{name}"
        for model in records(Config)
        for name, field in model.model_fields.items()
        if name != "type" and not field.description
    ]
    assert missing == []
    assert [model.__name__ for model in records(Config) if not model.__doc__] == []


def test_page_mentions_every_key_and_type():
    page = config_page()
    for model in records(Config):
        for name, field in model.model_fields.items():
            if name == "type":
                assert f"`type: {field.default}`" in page
            else:
                assert f"| `{name}` |" in page or f".{name}`\n" in page or f"## `{name}`\n" in page, (model, name)


def test_row_has_type_limits_default_and_facts():
    rows = config_page().splitlines()
    description = "Seconds that a run may take to save a checkpoint after a stop signal before it exits without saving."
    assert f"| `grace` | number, > 0 | `25` | may change | {description} |" in rows
    assert any(row.startswith("| `fg_iou` | number, > 0, ≤ 1 | `0.5` |  |") for row in rows)
    assert any(row.startswith("| `shorter` | whole number, ≥ 1, or a list of them | `[800]` |") for row in rows)
    assert any(row.startswith("| `ignore_ioa` | number, 0 to 1 | `0.5` |  |") for row in rows)
    assert any(row.startswith("| `max_detections` | whole number, ≥ 1 | `100` | may change |") for row in rows)

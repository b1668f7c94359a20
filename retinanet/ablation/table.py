"""A table of a paper as data: one row of config overrides per variant, with the published results."""

import contextlib
import difflib
import json
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

from pydantic import Field, ValidationError, model_validator

from retinanet.config import Config, StrictModel
from retinanet.config.base import APMetric
from retinanet.config.load import find_config, load_config
from retinanet.config.yaml_loader import read_yaml
from retinanet.errors import InputError

Percent = Annotated[float, Field(ge=0, le=100)]
Name = Annotated[str, Field(min_length=1)]
Overrides = dict[str, Any]  # as in a config file; checked by the config schema


class Setup(StrictModel):
    """A dataset for training the rows, and the config to use."""

    config: Name  # a file next to the table, or any path or name that `retinanet train` accepts
    short: bool = False  # shorter than the published runs
    overrides: Overrides = Field(default_factory=dict)


class Row(StrictModel):
    """One variant to train."""

    name: Name
    overrides: Overrides = Field(default_factory=dict)
    paper: dict[APMetric, Percent] = Field(default_factory=dict)  # in percent, as printed in the paper
    paper_ms: Annotated[float, Field(gt=0)] | None = None  # milliseconds per image on the paper's machine
    setups: tuple[str, ...] | None = None  # the setups that use this row; None: all


class Table(StrictModel):
    """Rows to compare, on one or more setups."""

    title: Name
    baseline: str | None = None  # the row to compare the others with; None: the best row
    setups: Annotated[dict[str, Setup], Field(min_length=1)]
    rows: Annotated[tuple[Row, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def names_fit_together(self) -> Self:
        names = [row.name for row in self.rows]
        if duplicates := {name for name in names if names.count(name) > 1}:
            raise ValueError(
                f"duplicate row names: {', '.join(map(repr, sorted(duplicates)))}; give each row a unique name"
            )
        if self.baseline is not None and self.baseline not in names:
            raise ValueError(f"no row is named {self.baseline!r}, the baseline; the rows are {', '.join(names)}")
        for row in self.rows:
            if unknown := set(row.setups or ()) - set(self.setups):
                raise ValueError(
                    f"row {row.name!r} has unknown setups {sorted(unknown)}; expected some of {', '.join(self.setups)}"
                )
        return self

    def rows_on(self, setup: str) -> dict[str, Row]:
        """The rows that a setup uses, by name."""
        return {row.name: row for row in self.rows if row.setups is None or setup in row.setups}


class Job(NamedTuple):
    """One run: a row and a seed."""

    row: str
    seed: int
    cfg: Config


def load_table(name: str | Path) -> Table:
    """Read a table by path, or by the name of a bundled table. Config names are resolved to paths.

    Raises:
        InputError: the table does not exist or has an error; the message names the file and the key.
    """
    file = find_table(name)
    try:
        table = Table.model_validate_json(json.dumps(read_yaml(file)))
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, item['loc'])) or 'table'}: {_problem(item)}" for item in error.errors()]
        raise InputError("\n  ".join([f"{file}: {len(lines)} problem(s) in the table", *lines])) from None
    setups = {}
    for key, setup in table.setups.items():
        neighbour = file.parent / setup.config
        try:
            config = neighbour if neighbour.is_file() else find_config(setup.config)
        except InputError as error:
            raise InputError(f"{file}: setups.{key}.config: {error}") from None
        setups[key] = setup.model_copy(update={"config": str(config)})
    return table.model_copy(update={"setups": setups})


def _problem(item: Any) -> str:
    if item["type"] == "extra_forbidden":
        return "unknown key"
    if item["type"] == "missing":
        return "missing; it has no default"
    if item["type"] == "value_error":
        return str(item["ctx"]["error"])
    return f"found {json.dumps(item['input'])[:80]}; {item['msg'][0].lower()}{item['msg'][1:]}"


def find_table(name: str | Path) -> Path:
    """Find a table file by path, or by the name of a bundled table."""
    if Path(name).is_file():
        return Path(name)
    shipped = shipped_tables()
    key = str(name).removesuffix(".yaml")
    if key in shipped:
        return shipped[key]
    near = difflib.get_close_matches(key, shipped, 1)
    hint = f"did you mean {near[0]}?" if near else f"bundled tables: {', '.join(shipped)}"
    raise InputError(f"{str(name)!r}: neither a file nor a bundled table; {hint}")


def shipped_tables() -> dict[str, Path]:
    """The bundled tables by name: the files in configs/paper that contain a table rather than a config."""
    entries = sorted(Path(str(entry)) for entry in (files("retinanet.configs") / "paper").iterdir())
    return {file.stem: file for file in entries if file.suffix == ".yaml" and "rows" in read_yaml(file)}


def make_jobs(
    table: Table, setup: str, *, num_seeds: int, rows: list[str] | None = None, overrides: list[str] | None = None
) -> list[Job]:
    """List all runs of a table on one setup, ordered by seed, to get a complete table as early as possible.

    Args:
        setup: the name of a setup of the table.
        rows: names of the rows to run; None: all rows of the setup.
        overrides: config overrides for every row, applied last.

    Raises:
        InputError: an unknown setup or row, an override that is invalid for a row, or a run that might stop early.
    """
    if setup not in table.setups:
        raise InputError(f"{table.title!r} has no setup {setup!r}; expected one of {', '.join(table.setups)}")
    chosen = table.setups[setup]
    possible = table.rows_on(setup)
    if unknown := [name for name in rows or [] if name not in possible]:
        hint = "; put KEY=VALUE before --rows" if "=" in unknown[0] else ""
        raise InputError(f"no row {unknown[0]!r} on {setup}; the rows are {', '.join(map(repr, possible))}{hint}")
    if any(override.partition("=")[0].strip() == "train.seed" for override in overrides or []):
        raise InputError("train.seed is set for each run; pass the number of seeds with --seeds")
    jobs = []
    for seed in range(num_seeds):
        for row in (possible[name] for name in rows or possible):
            row_overrides = [*_as_text(chosen.overrides), *_as_text(row.overrides), *(overrides or [])]
            try:
                cfg = load_config(chosen.config, [*row_overrides, f"train.seed={seed}"])
            except InputError as error:
                raise InputError(f"row {row.name!r}: {error}") from None
            if not cfg.data.has_validation:
                raise InputError(f"row {row.name!r}: data.val is empty; set it to a validation set")
            for key in ("max_hours", "early_stop"):
                if getattr(cfg.train, key) is not None:
                    raise InputError(
                        f"row {row.name!r}: train.{key} may stop runs early, and rows would differ in their number "
                        f"of steps; set train.{key}=null"
                    )
            jobs.append(Job(row.name, seed, cfg))
    return jobs


def make_valid_jobs(table: Table, setup: str, *, num_seeds: int, overrides: list[str] | None = None) -> list[Job]:
    """List the runs of the rows that accept the overrides; the other rows cannot have been trained with them."""
    jobs = []
    for name in table.rows_on(setup):
        with contextlib.suppress(InputError):
            jobs += make_jobs(table, setup, num_seeds=num_seeds, rows=[name], overrides=overrides)
    return jobs


def describe_schedule(table: Table, setup: str, cfg: Config) -> str:
    """Describe the length of the runs, and whether it matches the paper."""
    chosen = table.setups[setup]
    recipe = load_config(chosen.config, _as_text(chosen.overrides))
    kind = "a short schedule, not the paper's" if chosen.short else "the paper's schedule"
    if _length(cfg) != _length(recipe):
        kind = f"a schedule changed by overrides (without them, {_length(recipe)})"
    return f"{kind}: {_length(cfg)}"


def _length(cfg: Config) -> str:
    count = f"{cfg.train.steps} steps" if cfg.train.steps is not None else f"{cfg.train.epochs:g} epochs"
    return f"{count}, batch size {cfg.train.batch_size}"


def _as_text(overrides: Overrides) -> list[str]:
    """Format overrides as KEY=VALUE, with values in JSON, which is valid YAML."""
    return [f"{key}={json.dumps(value)}" for key, value in overrides.items()]

"""A table of a paper as data: rows of overrides over a config, with the figures that were published."""

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
Overrides = dict[str, Any]  # as in a config file; its schema checks them


class Setup(StrictModel):
    """A data set that a table can be made on, and the recipe for it."""

    config: Name  # a file beside that of the table, or what `retinanet train` takes
    short: bool = False  # runs are shorter than those whose figures were published
    overrides: Overrides = Field(default_factory=dict)


class Row(StrictModel):
    """One thing to try."""

    name: Name
    overrides: Overrides = Field(default_factory=dict)
    paper: dict[APMetric, Percent] = Field(default_factory=dict)  # AP in percent, as the paper prints it
    paper_ms: Annotated[float, Field(gt=0)] | None = None  # milliseconds an image, on the paper's machine
    setups: tuple[str, ...] | None = None  # those that it makes sense in; none: all


class Table(StrictModel):
    """What is compared, and with what."""

    title: Name
    baseline: str | None = None  # the row that the others are compared with; none: the best one
    setups: Annotated[dict[str, Setup], Field(min_length=1)]
    rows: Annotated[tuple[Row, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def names_fit_together(self) -> Self:
        names = [row.name for row in self.rows]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"several rows are named {', '.join(map(repr, sorted(twice)))}; give each its own name")
        if self.baseline is not None and self.baseline not in names:
            raise ValueError(f"baseline {self.baseline!r} is no row; the rows are {', '.join(names)}")
        for row in self.rows:
            if unknown := set(row.setups or ()) - set(self.setups):
                raise ValueError(
                    f"row {row.name!r} names the setups {sorted(unknown)}; the table has {', '.join(self.setups)}"
                )
        return self

    def rows_on(self, setup: str) -> dict[str, Row]:
        """By name, those that make sense there."""
        return {row.name: row for row in self.rows if row.setups is None or setup in row.setups}


class Job(NamedTuple):
    """One run: a row with a seed."""

    row: str
    seed: int
    cfg: Config


def load_table(name: str | Path) -> Table:
    """Read a table, by path or by the name of one that the package ships; its configs are then paths.

    Raises:
        InputError: there is none, or something in it is wrong; the message names the file and the key.
    """
    file = find_table(name)
    try:
        table = Table.model_validate_json(json.dumps(read_yaml(file)))
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, item['loc'])) or 'the whole'}: {_problem(item)}" for item in error.errors()]
        raise InputError("\n  ".join([f"{file}: {len(lines)} problem(s) in the table", *lines])) from None
    setups = {}
    for key, setup in table.setups.items():
        beside = file.parent / setup.config
        try:
            found = beside if beside.is_file() else find_config(setup.config)
        except InputError as error:
            raise InputError(f"{file}: setups.{key}.config: {error}") from None
        setups[key] = setup.model_copy(update={"config": str(found)})
    return table.model_copy(update={"setups": setups})


def _problem(item: Any) -> str:
    if item["type"] == "extra_forbidden":
        return "unknown key"
    if item["type"] == "missing":
        return "missing, and it has no default"
    if item["type"] == "value_error":
        return str(item["ctx"]["error"])
    return f"found {json.dumps(item['input'])[:80]}; {item['msg'][0].lower()}{item['msg'][1:]}"


def find_table(name: str | Path) -> Path:
    """A file by its path, else a table that the package ships, by its name."""
    if Path(name).is_file():
        return Path(name)
    shipped = shipped_tables()
    key = str(name).removesuffix(".yaml")
    if key in shipped:
        return shipped[key]
    near = difflib.get_close_matches(key, shipped, 1)
    hint = f"did you mean {near[0]}?" if near else f"the package has {', '.join(shipped)}"
    raise InputError(f"{str(name)!r}: no such table, by path or by name in the package; {hint}")


def shipped_tables() -> dict[str, Path]:
    """By name: the files of configs/paper that hold a table, not a config."""
    entries = sorted(Path(str(entry)) for entry in (files("retinanet.configs") / "paper").iterdir())
    return {file.stem: file for file in entries if file.suffix == ".yaml" and "rows" in read_yaml(file)}


def jobs_of(
    table: Table, setup: str, *, num_seeds: int, rows: list[str] | None = None, overrides: list[str] | None = None
) -> list[Job]:
    """Every run of a table on one data set, seed by seed, so that a first full table is there early.

    Args:
        setup: one of the table's.
        rows: some of its rows; none: all that make sense there.
        overrides: of every row, applied last.

    Raises:
        InputError: there is no such setup or row, an override does not fit, or runs would not all end at their last
            step.
    """
    if setup not in table.setups:
        raise InputError(f"{table.title!r} has no set-up {setup!r}; expected one of {', '.join(table.setups)}")
    chosen = table.setups[setup]
    possible = table.rows_on(setup)
    if unknown := [name for name in rows or [] if name not in possible]:
        hint = "; KEY=VALUE stands before --rows" if "=" in unknown[0] else ""
        raise InputError(
            f"there is no row {unknown[0]!r} on {setup}; the rows are {', '.join(map(repr, possible))}{hint}"
        )
    if any(override.partition("=")[0].strip() == "train.seed" for override in overrides or []):
        raise InputError("train.seed is that of each run in turn; --seeds says how many there are")
    jobs = []
    for seed in range(num_seeds):
        for row in (possible[name] for name in rows or possible):
            of_row = [*_as_text(chosen.overrides), *_as_text(row.overrides), *(overrides or [])]
            try:
                cfg = load_config(chosen.config, [*of_row, f"train.seed={seed}"])
            except InputError as error:
                raise InputError(f"row {row.name!r}: {error}") from None
            if not cfg.data.val:
                raise InputError(f"row {row.name!r}: data.val is empty; give images to score the rows on")
            for key in ("max_hours", "early_stop"):
                if getattr(cfg.train, key) is not None:
                    raise InputError(
                        f"row {row.name!r}: train.{key} may end a run before its last step, and rows would differ in "
                        f"their length; give train.{key}=null"
                    )
            jobs.append(Job(row.name, seed, cfg))
    return jobs


def jobs_that_fit(table: Table, setup: str, *, num_seeds: int, overrides: list[str] | None = None) -> list[Job]:
    """Those of every row but the ones that the overrides do not fit, of which there can be no runs."""
    jobs = []
    for name in table.rows_on(setup):
        with contextlib.suppress(InputError):
            jobs += jobs_of(table, setup, num_seeds=num_seeds, rows=[name], overrides=overrides)
    return jobs


def describe_schedule(table: Table, setup: str, cfg: Config) -> str:
    """How long a run of these rows is, and whether that is the paper's length."""
    chosen = table.setups[setup]
    recipe = load_config(chosen.config, _as_text(chosen.overrides))
    kind = "a SHORT schedule, not the paper's" if chosen.short else "the paper's schedule"
    if _length(cfg) != _length(recipe):
        kind = f"a schedule of the command's own, where the set-up has {_length(recipe)}"
    return f"{kind}: {_length(cfg)}"


def _length(cfg: Config) -> str:
    count = f"{cfg.train.steps} steps" if cfg.train.steps is not None else f"{cfg.train.epochs:g} epochs"
    return f"{count} of {cfg.train.batch_size} images a step"


def _as_text(overrides: Overrides) -> list[str]:
    """In the form that a person types; JSON is YAML."""
    return [f"{key}={json.dumps(value)}" for key, value in overrides.items()]

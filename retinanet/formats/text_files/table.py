"""Read delimited text files row by row: CSV with commas, semicolons or tabs."""

import csv
import re
from collections.abc import Iterator
from typing import NamedTuple

from retinanet.errors import InputError
from retinanet.formats.text_files.content import encoding_of

DELIMITERS = (",", ";", "\t")
EXCEL_DELIMITER = re.compile(r"\s*sep=.\s*")  # a first line used only by Excel
MAX_LINE = 1 << 20  # characters; longer lines are not tables, and would take too much memory


class Row(NamedTuple):
    """One row; `line` is the line on which it starts, counted from 1."""

    line: int
    fields: list[str]  # without surrounding whitespace


def first_rows(file: str) -> dict[str, Row]:
    """Split the first row by each delimiter with which the file can be read; empty if the file has no rows.

    Raises:
        InputError: as in `rows_of`, if the file cannot be read with any delimiter.
    """
    found: dict[str, Row] = {}
    errors: list[InputError] = []
    for delimiter in DELIMITERS:
        try:
            row = next(rows_of(file, delimiter), None)
        except InputError as error:
            errors.append(error)
        else:
            found |= {delimiter: row} if row is not None else {}
    if errors and all(len(row.fields) == 1 for row in found.values()):
        raise errors[0]
    return found


def rows_of(file: str, delimiter: str) -> Iterator[Row]:
    """Yield the non-empty rows of a file.

    Raises:
        InputError: the file cannot be read, is not text in UTF-8 or UTF-16, or has an unclosed quote.
    """
    reader = csv.reader(_lines(file), delimiter=delimiter, strict=True, skipinitialspace=True)
    line = 1
    try:
        for fields in reader:
            stripped = [field.strip() for field in fields]
            if any(stripped):
                yield Row(line, stripped)
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{file}: line {line}: is not valid CSV: {error}; check the quotes there") from None


def _lines(file: str) -> Iterator[str]:
    try:
        with open(file, "rb") as stream:
            start = stream.read(2)
        with open(file, encoding=encoding_of(start), newline="") as text:
            number = 0
            while line := text.readline(MAX_LINE):
                number += 1
                if len(line) == MAX_LINE or "\0" in line:
                    problem = "has a NUL byte" if "\0" in line else f"has over {MAX_LINE} characters"
                    raise InputError(f"{file}: line {number}: {problem}, so it is not a CSV file; correct the path")
                yield "\n" if number == 1 and EXCEL_DELIMITER.fullmatch(line) else line
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}; expected a CSV file") from None
    except UnicodeError:
        raise InputError(f"{file}: is not UTF-8 text; save it as UTF-8") from None

"""Read delimited text files row by row: CSV with commas, semicolons or tabs."""

import codecs
import csv
import re
from collections.abc import Iterator
from typing import NamedTuple

from retinanet.errors import InputError

DELIMITERS = (",", ";", "\t")
EXCEL_DELIMITER = re.compile(r"\s*sep=.\s*")  # a first line that only Excel needs
MAX_LINE = 1 << 20  # characters; a longer line is not that of a table, and would need memory


class Row(NamedTuple):
    """One row; `line` is the line of the file on which it starts, from 1."""

    line: int
    fields: list[str]  # without surrounding blanks


def first_rows(file: str) -> dict[str, Row]:
    """The first row, split at each delimiter at which the file can be; empty if it has no row.

    Raises:
        InputError: see `rows_of`; the file has a fault whatever the delimiter.
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
    """Yield the rows of a file, without empty ones.

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
        encoding = "utf-16" if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
        with open(file, encoding=encoding, newline="") as text:
            number = 0
            while line := text.readline(MAX_LINE):
                number += 1
                if len(line) == MAX_LINE or "\0" in line:
                    problem = "has a NUL byte" if "\0" in line else f"has over {MAX_LINE} characters"
                    raise InputError(f"{file}: line {number}: {problem}, so this is not a CSV file; correct the path")
                yield "\n" if number == 1 and EXCEL_DELIMITER.fullmatch(line) else line
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}; expected a CSV file") from None
    except UnicodeError:
        raise InputError(f"{file}: is not UTF-8 text; save it as UTF-8") from None

"""Findings about a dataset: problems that readers and checks return, to be logged, raised or listed."""

import logging
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from retinanet.errors import InputError

log = logging.getLogger(__name__)

MAX_EXAMPLES = 3  # per finding

Severity = Literal["error", "warning", "note"]


class Finding(NamedTuple):
    """All occurrences of one kind of problem in one place.

    An error stops training, which would fail or learn the wrong thing. A warning needs a look. A note is harmless.
    """

    severity: Severity
    kind: str  # a stable name, such as "category_name_twice"
    where: str  # the file, or the config key
    message: str  # what was found and what to do; one line
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"

    @property
    def text(self) -> str:
        """The message and its examples, without `where`."""
        return self.message + (f" ({'; '.join(self.examples)})" if self.examples else "")


def shortened(examples: Sequence[str], total: int | None = None) -> tuple[str, ...]:
    """The first `MAX_EXAMPLES` examples, followed by "..." if there are more.

    Args:
        total: the total number of examples, if `examples` contains only the first ones.
    """
    shown = tuple(examples[:MAX_EXAMPLES])
    return (*shown, "...") if (len(examples) if total is None else total) > len(shown) else shown


class FindingCounter:
    """Count problems in one place, and combine them into one finding per kind.

    Args:
        where: `Finding.where` of all findings.
    """

    def __init__(self, where: str):
        self.where = where
        self._kinds: dict[tuple[Severity, str, str], tuple[int, list[str]]] = {}

    def add(self, severity: Severity, kind: str, message: str, example: str | None = None, *, number: int = 1) -> None:
        """Record an occurrence.

        Args:
            message: what is wrong and what to do, the same text for all occurrences of the kind; `{count}` is replaced
                with the number of occurrences.
            example: where the problem is and what was found there, such as "labels/a.txt:3 ('0 0.5')".
            number: how many occurrences to record.
        """
        count, examples = self._kinds.get((severity, kind, message), (0, []))
        if example is not None and len(examples) < MAX_EXAMPLES:
            examples.append(example)
        self._kinds[severity, kind, message] = count + number, examples

    def findings(self) -> tuple[Finding, ...]:
        """One finding per kind and message, in order of first occurrence."""
        return tuple(
            Finding(
                severity,
                kind,
                self.where,
                message.replace("{count}", str(count)),
                shortened(examples, count) if examples else (),
            )
            for (severity, kind, message), (count, examples) in self._kinds.items()
        )

    def check(self) -> None:
        """Raise if any errors were recorded; warnings and notes are ignored.

        Raises:
            InputError: errors were recorded; the message lists all of them.
        """
        report(finding for finding in self.findings() if finding.severity == "error")


def report(findings: Iterable[Finding]) -> None:
    """Raise one exception for all errors, or log the warnings and notes if there are none.

    Raises:
        InputError: at least one finding is an error; several errors are listed one per line.
    """
    findings = tuple(findings)
    errors = [finding for finding in findings if finding.severity == "error"]
    if len(errors) == 1:
        raise InputError(str(errors[0]))
    if errors:
        places = list(dict.fromkeys(finding.where for finding in errors))
        if len(places) == 1:
            lines = [f"{places[0]}: {len(errors)} problem(s)", *(finding.text for finding in errors)]
        else:
            lines = [f"{len(errors)} problem(s) in the data", *map(str, errors)]
        raise InputError("\n  ".join(lines))
    for finding in findings:
        log.log(logging.WARNING if finding.severity == "warning" else logging.INFO, "%s", finding)

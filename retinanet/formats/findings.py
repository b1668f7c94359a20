"""Findings about a dataset: what readers and checks return, to be logged, raised, or shown as a list."""

import logging
from collections.abc import Iterable
from typing import Literal, NamedTuple

from retinanet.errors import InputError

log = logging.getLogger(__name__)

MAX_EXAMPLES = 3  # per finding

Severity = Literal["error", "warning", "note"]


class Finding(NamedTuple):
    """One kind of problem in one place, however often it occurs.

    An error stops training, because it would fail or learn the wrong thing; a warning needs a look; a note is harmless.
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
        """The message and its examples, without the place."""
        return self.message + (f" ({'; '.join(self.examples)})" if self.examples else "")


class FindingCounter:
    """Collect occurrences of problems in one place, and make one finding of each kind.

    Args:
        where: the place of all findings.
    """

    def __init__(self, where: str):
        self.where = where
        self._kinds: dict[tuple[Severity, str, str], tuple[int, list[str]]] = {}

    def add(self, severity: Severity, kind: str, message: str, example: str) -> None:
        """Record one occurrence; `{count}` in the message becomes the number of occurrences."""
        count, examples = self._kinds.get((severity, kind, message), (0, []))
        if count < MAX_EXAMPLES:
            examples.append(example)
        self._kinds[severity, kind, message] = count + 1, examples

    def findings(self) -> tuple[Finding, ...]:
        """One finding per kind and message, in the order of their first occurrence."""
        return tuple(
            Finding(
                severity,
                kind,
                self.where,
                message.replace("{count}", str(count)),
                (*examples, "...") if count > len(examples) else tuple(examples),
            )
            for (severity, kind, message), (count, examples) in self._kinds.items()
        )


def report(findings: Iterable[Finding]) -> None:
    """Raise all errors as one, or else log warnings and notes.

    Raises:
        InputError: a finding is an error; the message has one line per error if there are several.
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

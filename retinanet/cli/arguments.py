"""Command-line arguments: options and overrides in any order, and one-line errors with suggestions."""

import argparse
import difflib
import math
import os
import shlex
from pathlib import Path
from typing import NoReturn

from retinanet.config.paths import expand_path
from retinanet.errors import InputError

SET = "--set"


class CommandParser(argparse.ArgumentParser):
    """Parser for one command. Errors print one line without the usage text, and exit with code 2."""

    takes_overrides = False

    def add_overrides(self, help: str) -> None:
        """Accept config overrides in any position, written as `KEY=VALUE` or `--set KEY=VALUE`."""
        self.takes_overrides = True
        # Without a default, argparse would report the list as required, although it may be empty.
        self.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE", help=help)
        self.add_argument(SET, action="append", metavar="KEY=VALUE", help="same as KEY=VALUE; may be repeated")

    def parse(self, argv: list[str]) -> argparse.Namespace:
        """Parse the arguments of a command; `overrides` lists all overrides in the order given."""
        rest, overrides = self._separate_overrides(argv)
        arguments = self.parse_intermixed_args(rest)
        if self.takes_overrides:
            arguments.overrides = [*arguments.overrides, *overrides]
        return arguments

    def error(self, message: str, hint: str | None = None) -> NoReturn:
        """Print one line and exit with code 2."""
        self.exit(2, f"{self.prog}: {message}; {hint or f'see {self.prog} --help'}\n")

    def _separate_overrides(self, argv: list[str]) -> tuple[list[str], list[str]]:
        """Separate the overrides from the other arguments, and report unknown options."""
        rest: list[str] = []
        overrides: list[str] = []
        tokens = list(argv)
        while tokens:
            token = tokens.pop(0)
            option, has_value, value = token.partition("=")
            action = self._option_string_actions.get(option)
            if token == "--":
                return [*rest, token, *tokens], overrides
            if action and option == SET and (has_value or tokens):
                overrides.append(value if has_value else tokens.pop(0))
            elif action:
                count = 1 if action.nargs is None and not has_value else 0
                rest += [token, *tokens[:count]]
                del tokens[:count]
            elif token.startswith("-") and token != "-":
                self.error(f"no option {option}", self._hint_for(option, value if has_value else "".join(tokens[:1])))
            elif self.takes_overrides and is_override(token):
                overrides.append(token)
            else:
                rest.append(token)
        return rest, overrides

    def _hint_for(self, option: str, value: str) -> str | None:
        """Suggest the option or config key that an unknown option may have meant."""
        options = [name for name in self._option_string_actions if name.startswith("--")]
        if (dashed := option.replace("_", "-")) in options:
            return f"did you mean {dashed}?"
        key = option.lstrip("-").replace("-", "_")
        keys = _config_keys(key) if self.takes_overrides else []
        if not any(f".{name}".endswith(f".{key}") for name in keys):  # no exact match: more likely a misspelt option
            if near := difflib.get_close_matches(option, options, 1):
                return f"did you mean {near[0]}?"
        shown = [
            shlex.quote(f"{name}={value}") if value and not value.startswith("-") else f"{name}=..." for name in keys
        ]
        return f"did you mean {' or '.join(shown)}?" if keys else None


def _config_keys(name: str) -> list[str]:
    from retinanet.config.keys import keys_with_leaf, schema_keys

    return [name] if name in schema_keys() else keys_with_leaf(name)


def output_path(text: str) -> Path:
    """Parse the path of an output folder, expanding `~` and environment variables as in a config.

    Raises:
        ArgumentTypeError: a variable is not set.
    """
    try:
        return Path(expand_path(text, "folder"))
    except InputError as error:
        raise argparse.ArgumentTypeError(error) from None


def count(text: str) -> int:
    """A whole number, at least 0.

    Raises:
        ArgumentTypeError: the text is not such a number.
    """
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number")
    return int(text)


def fraction(text: str) -> float:
    """A number from 0 to 1, such as a score or a precision.

    Raises:
        ArgumentTypeError: the text is not such a number.
    """
    value = _number(text)
    if not 0 <= value <= 1:  # NaN fails the comparison
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a number from 0 to 1")
    return value


def _number(text: str) -> float:
    """The number that a text stands for; NaN, with which every comparison fails, if it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def is_override(text: str) -> bool:
    """Whether an argument is meant as `KEY=VALUE` rather than as a path."""
    key, sign, _ = text.partition("=")
    return bool(sign) and not any(separator in key for separator in "/\\") and not os.path.exists(text)


def positive_number(text: str) -> float:
    """A number above 0.

    Raises:
        ArgumentTypeError: the text is not such a number.
    """
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a number above 0")
    return value


def positive_int(text: str) -> int:
    """A whole number, at least 1.

    Raises:
        ArgumentTypeError: the text is not such a number.
    """
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number above 0")
    return int(text)

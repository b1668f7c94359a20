"""Fenced blocks of Markdown pages, and the commands, configs and file edits in them."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

REPO = Path(__file__).parents[2]
# The blocks of the extension guide depend on its edits, which tests/test_extending_guide.py applies.
PAGES_WITH_BLOCKS = [
    *(REPO / name for name in ("README.md", "AGENTS.md", "CONTRIBUTING.md")),
    *(page for page in sorted((REPO / "docs").glob("*.md")) if page.name != "extending.md"),
]
NOT_RUN = re.compile(r"<!-- not run: \S.* -->")
FENCE = re.compile(r"^```(\w*)$")
HEADING = re.compile(r"^## (.+)$")


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    line: int  # line of the opening fence, from 1
    section: str  # the `##` heading above it
    language: str
    text: str
    is_run: bool  # False after a comment `<!-- not run: the reason -->`

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks_in(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    blocks: list[Block] = []
    before = section = ""
    lines = iter(enumerate(page.read_text(encoding="utf-8").splitlines(), 1))
    for number, line in lines:
        if heading := HEADING.match(line):
            section = heading[1]
        if fence := FENCE.match(line):
            body: list[str] = []
            for _, inner in lines:
                if inner == "```":
                    break
                body.append(inner)
            else:
                raise AssertionError(f"{page}:{number}: the block has no closing fence")
            text = "".join(inner + "\n" for inner in body)
            blocks.append(Block(page, number, section, fence[1], text, not NOT_RUN.fullmatch(before)))
        if line.strip():
            before = line
    return blocks


def commands_in(text: str) -> list[list[str]]:
    """The words of each command in a shell block, without comments."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def named_yaml(page: Path) -> dict[str, str]:
    """The config files on a page: YAML blocks that start with a comment such as `# my.yaml`."""
    shown = [block.text for block in blocks_in(page) if block.language == "yaml"]
    return {found[1]: text for text in shown if (found := re.match(r"# (\S+\.yaml)\n", text))}


def apply_edit(text: str, root: Path) -> None:
    """Apply a diff block, which edits one file: `--- FILE`, then hunks, each after a line `@@`.

    There are no line numbers: the unchanged and removed lines of a hunk must occur exactly once in the file.
    """
    first, *hunks = re.split(r"^@@.*\n", text, flags=re.MULTILINE)
    found = re.fullmatch(r"--- (\S+)\n", first)
    assert found and hunks, f"expected --- FILE and hunks after @@, found {text!r}"
    file = root / found[1]
    content = file.read_text(encoding="utf-8")
    for hunk in hunks:
        lines = [line or " " for line in hunk.splitlines()]
        assert all(line[0] in " +-" for line in lines), hunk
        before = "".join(line[1:] + "\n" for line in lines if line[0] in " -")
        after = "".join(line[1:] + "\n" for line in lines if line[0] in " +")
        assert content.count(before) == 1, f"{found[1]}: found {content.count(before)} times, expected once:\n{before}"
        content = content.replace(before, after)
    file.write_text(content, encoding="utf-8")

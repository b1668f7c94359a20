"""`data.band_files`: patterns of the files that together contain the bands of an image."""

import re

PLACEHOLDER = re.compile(r"\{(\w+)\}")


def check_patterns(patterns: tuple[str, ...]) -> None:
    """Check the patterns of an image's files.

    Raises:
        ValueError: they are too few, absolute, equal, or do not depend on the name of the image.
    """
    if len(patterns) < 2:
        raise ValueError(f"found {list(patterns)}, expected the annotated file and at least one more")
    if len(set(patterns)) < len(patterns):
        raise ValueError(f"found {list(patterns)}, expected different files")
    known = set(PLACEHOLDER.findall(patterns[0]))
    if ".." in patterns[0].split("/"):
        raise ValueError(f"the first pattern, {patterns[0]!r}, contains '..', expected the end of the annotated path")
    for pattern in patterns:
        rest = PLACEHOLDER.sub("", pattern)
        if pattern.startswith("/") or "" in pattern.split("/") or set("{}\\") & set(rest):
            raise ValueError(f"{pattern!r} is not a pattern such as '{{stem}}.png' or '../thermal/{{stem}}.tif'")
        names = set(PLACEHOLDER.findall(pattern))
        if not names:
            raise ValueError(f"{pattern!r} would be the same file for every image; use a placeholder such as {{stem}}")
        if names - known:
            raise ValueError(
                f"{pattern!r} uses {{{min(names - known)}}}, which is not in the first pattern, {patterns[0]!r}"
            )

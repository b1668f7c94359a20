import ast
from pathlib import Path

import retinanet

PACKAGE = Path(retinanet.__file__).parent
SEPARATE = {"losses/focal_weights.py"}  # FocalLoss needs torch alone, so it cannot import the config


def test_every_choice_is_defined_once():
    """Each `Literal` with several values is defined in one module, from which the others import it."""
    places: dict[frozenset[str], list[str]] = {}
    for file in sorted(set(PACKAGE.rglob("*.py")) - {PACKAGE / name for name in SEPARATE}):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Subscript) and ast.unparse(node.value) in ("Literal", "typing.Literal"):
                values = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
                if len(values) > 1:
                    place = f"{file.relative_to(PACKAGE)}:{node.lineno}"
                    places.setdefault(frozenset(map(ast.unparse, values)), []).append(place)
    assert len(places) > 5
    assert [where for where in places.values() if len(where) > 1] == []

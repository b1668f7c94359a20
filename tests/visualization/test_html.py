"""HTML pages: escaped, without network access, and never overwriting other files."""

import base64
import hashlib
import io
import re
import sys

import jinja2
import numpy as np
import pytest
import torch
from PIL import Image

from retinanet.errors import InputError
from retinanet.visualization.html import check_page, image_url, render_page, write_page

COMMAND = "retinanet test"
HOSTILE = "<script>alert('1')</script>\" \x1b[2J \u202etxt.exe"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The name of a package with a template and a script."""
    folder = tmp_path / f"parts_of_{tmp_path.name}"  # a new name: pages keep the templates of a package
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "page.html").write_text(
        '{% extends "base.html" %}{% block title %}{{ name }}{% endblock %}'
        '{% block content %}<p title="{{ name }}">{{ plural(count, "object") }}</p>{% endblock %}'
    )
    (folder / "one.js").write_text("'use strict';\nconst one = '{{ not a template }} <';\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield folder.name
    sys.modules.pop(folder.name, None)


def test_text_is_escaped_in_content_and_attributes(package):
    page = render_page(package, "page.html", {"name": HOSTILE, "count": 2}, command=COMMAND)
    assert "<script" not in page and "\x1b" not in page and "\u202e" not in page
    escaped = "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&#34; \\x1b[2J \\u202etxt.exe"
    assert f"<title>{escaped}</title>" in page and f'<p title="{escaped}">2 objects</p>' in page


def test_a_missing_value_is_an_error(package):
    with pytest.raises(jinja2.UndefinedError, match="'count' is undefined"):
        render_page(package, "page.html", {"name": "a"}, command=COMMAND)


def test_the_policy_allows_the_scripts_of_the_page_and_nothing_else(package):
    values = {"name": "a", "count": 1}
    policy = re.compile('http-equiv="Content-Security-Policy" content="([^"]*)"')
    without = policy.search(render_page(package, "page.html", values, command=COMMAND))[1]
    assert "script-src" not in without and without.startswith("default-src 'none'; img-src data:;")
    page = render_page(package, "page.html", values, command=COMMAND, scripts=["one.js"])
    (script,) = re.findall("<script>(.*?)</script>", page, re.DOTALL)
    assert script == "'use strict';\nconst one = '{{ not a template }} <';\n"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy.search(page)[1]


def test_image_in_a_data_url_decodes_to_the_image():
    image = torch.full((3, 8, 12), 200, dtype=torch.uint8)
    prefix, _, encoded = image_url(image).partition(",")
    assert prefix == "data:image/jpeg;base64"
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))
    assert decoded.shape == (8, 12, 3) and np.abs(decoded.astype(int) - 200).max() <= 2


def test_page_replaces_only_a_page_of_the_same_command(tmp_path, package):
    file = tmp_path / "page.html"
    check_page(file, command=COMMAND, option="--page")
    assert not file.exists()
    write_page(render_page(package, "page.html", {"name": "a", "count": 1}, command=COMMAND), file)
    check_page(file, command=COMMAND, option="--page")
    before = file.read_bytes()
    with pytest.raises(InputError, match="exists, and was not written by retinanet other; choose another --report"):
        check_page(file, command="retinanet other", option="--report")
    assert file.read_bytes() == before
    file.write_text("<html>my own notes</html>")
    with pytest.raises(InputError, match="exists, and was not written by retinanet test; choose another --page"):
        check_page(file, command=COMMAND, option="--page")
    assert file.read_text() == "<html>my own notes</html>"


def test_page_that_cannot_be_written(tmp_path):
    for file in (tmp_path / "missing/check.html", tmp_path):
        with pytest.raises(InputError, match=r"cannot be written: .*; choose another --page"):
            check_page(file, command=COMMAND, option="--page")

"""Package list, which pyproject.toml cannot express: configs/ is installed as `retinanet.configs`."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["retinanet", "retinanet.*"]), "retinanet.configs"],
    package_dir={"retinanet": "retinanet", "retinanet.configs": "configs"},
    package_data={
        "retinanet": ["py.typed"],
        "retinanet.doctor": ["*.html"],
        "retinanet.report": ["*.html", "*.js", "*.md"],
        "retinanet.visualization": ["*.css", "*.html", "*.js"],
        "retinanet.configs": ["*.yaml", "paper/*.yaml"],
    },
)

"""`python -m retinanet.config`: write docs/config.md, in the root of the repository."""

from retinanet.config.document import PAGE, config_page

if __name__ == "__main__":
    PAGE.write_text(config_page(), encoding="utf-8")

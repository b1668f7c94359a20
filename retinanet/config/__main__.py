"""`python -m retinanet.config`: regenerate docs/config.md; run it from the repository root."""

from retinanet.config.document import PAGE, config_page

if __name__ == "__main__":
    PAGE.write_text(config_page(), encoding="utf-8")

"""Regenerate docs/config.md. Run `python -m retinanet.config` from the repository root."""

from retinanet.config.document import PAGE, config_page

if __name__ == "__main__":
    PAGE.write_text(config_page(), encoding="utf-8")

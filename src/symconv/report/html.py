"""Pages from templates that come with the package; everything is inline, nothing is loaded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from symconv.extras import needs


def render(template: str, **values: Any) -> str:
    """Fill a template of this package; values are escaped unless marked by `safe`.

    Args:
        template: File name in `symconv/report`.
        **values: What the template names.
    """
    jinja = needs("jinja2", "report", "the page")
    environment = jinja.Environment(
        loader=jinja.PackageLoader("symconv.report", "."),
        autoescape=True,
        undefined=jinja.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def safe(svg: str) -> Any:
    """Mark our own SVG as fit to stand in a page as it is."""
    return needs("markupsafe", "report", "the page").Markup(svg)


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that it is either whole or absent."""
    temporary = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)

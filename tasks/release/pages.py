"""Fills the templates of the report's pages; whatever comes from data is escaped."""

from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).parent / "templates"


def render(path: Path, **values: Any) -> None:
    """Write the page whose template has the path's name, with these values."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["count"] = lambda value: f"{value:,.0f}"
    environment.filters["percent"] = lambda share: f"{share:.1%}"
    path.write_text(environment.get_template(path.name).render(values), encoding="utf-8")

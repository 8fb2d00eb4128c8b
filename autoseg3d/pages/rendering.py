"""render: one macro of a template filled with a value, everything in it escaped."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup


@cache
def _template(package: str, name: str) -> Template:
    environment = Environment(
        loader=PackageLoader(package), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(name)


def render(macro: str, value: object, *, package: str = "autoseg3d.pages", template: str = "blocks.html") -> Markup:
    """The HTML of `value` as a macro of a template draws it. Text is escaped; only Markup, made by other templates, is not.

    Args:
        macro: its name in the template; it takes the value as its one argument.
        package: the package whose folder `templates` holds the template.
    """
    made: Markup = getattr(_template(package, template).module, macro)(value)
    return made

"""Planners and networks that other packages add by entry points.

A plugin is imported when it is asked for and not before, so a broken one harms nobody else. Where two packages claim one
name, that name is refused and the others stay. Our own entries are explicit tables in the code that asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from autoseg3d.errors import UsageError

PLANNERS = "autoseg3d.planners"
NETWORKS = "autoseg3d.networks"


@dataclass(frozen=True)
class Plugin:
    """One entry point that an installed package declares.

    name      what plans and options call it
    target    "module:attribute"
    package   the distribution that declares it, with its version
    """

    name: str
    target: str
    package: str
    entry: EntryPoint

    def load(self) -> Callable[..., Any]:
        """Imports it. Raises UsageError (E_PLUGIN) naming the package where that fails or gives nothing to call."""
        try:
            loaded = self.entry.load()
        except (Exception, SystemExit) as error:  # it may fail in any way; the fault becomes one that names its package
            raise self._fault(f"cannot be loaded: {type(error).__name__}: {error}") from error
        if not callable(loaded):
            raise self._fault(f"is a {type(loaded).__name__}, which cannot be called")
        return loaded  # type: ignore[no-any-return]

    def _fault(self, what: str) -> UsageError:
        remedy = f"Repair, update or uninstall {self.package}"
        return UsageError(f"plugin '{self.name}' of {self.package} {what}", code="E_PLUGIN", field=self.target, remedy=remedy)


def installed(group: str) -> tuple[Plugin, ...]:
    """The plugins of installed packages in `group`, by name; nothing is imported."""
    found = [Plugin(e.name, e.value, _package(e), e) for e in entry_points(group=group)]
    return tuple(sorted(found, key=lambda plugin: (plugin.name, plugin.package)))


def _package(entry: EntryPoint) -> str:
    return "an unknown package" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"


def names(group: str, own: Mapping[str, Callable[..., Any]]) -> tuple[str, ...]:
    """Every name that can be asked for in `group`: those of our `own` table first, then those of plugins."""
    return tuple(dict.fromkeys((*own, *(plugin.name for plugin in installed(group)))))


def find(group: str, name: str, *, own: Mapping[str, Callable[..., Any]], field: str) -> Callable[..., Any]:
    """What `name` stands for in `group`: an entry of our `own` table or a plugin, which is imported now.

    Args:
        group: entry-point group.
        name: the name asked for.
        own: our entries.
        field: the plan's field or the option in which the name stood, for messages.

    Raises:
        UsageError: E_USAGE for an unknown name, listing the choices; E_PLUGIN for a plugin that cannot be loaded, and for
            a name that two packages claim.
    """
    claims = {plugin.target: plugin for plugin in installed(group) if plugin.name == name and not _is(plugin, own.get(name))}
    if claims and (name in own or len(claims) > 1):
        claimants = [*(["autoseg3d"] if name in own else []), *sorted({plugin.package for plugin in claims.values()})]
        raise UsageError(
            f"the name '{name}' is claimed by {' and by '.join(claimants)}",
            code="E_PLUGIN",
            field=field,
            remedy="Uninstall one of them, or rename its entry point",
        )
    if name in own:
        return own[name]
    if not claims:
        raise UsageError("unknown name", field=field, wanted=" or ".join(names(group, own)), got=name)
    return next(iter(claims.values())).load()


def _is(plugin: Plugin, own: Callable[..., Any] | None) -> bool:
    return own is not None and plugin.target == f"{own.__module__}:{own.__qualname__}"

"""Puts the viewer of reports into the wheel where npm is at hand; without it the package works, with pictures only."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

STEPS = (("ci", "--ignore-scripts", "--no-audit", "--no-fund"), ("run", "bundle"))


class ViewerHook(BuildHookInterface[Any]):
    """Runs npm in autoseg3d/report/viewer, unless the bundle lies there already (`make viewer`)."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it gathers files."""
        folder = Path(self.root) / "autoseg3d" / "report" / "viewer"
        if version == "editable" or (folder / "niivue.js").is_file():
            return
        npm = shutil.which("npm")
        try:
            for step in STEPS:
                subprocess.run([npm or "npm", *step], cwd=folder, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            self.app.display_warning(f"built without the 3D viewer of reports, npm failed: {error}")

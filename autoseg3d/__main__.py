"""`python -m autoseg3d` is `autoseg3d`."""

from autoseg3d.cli import program

program()

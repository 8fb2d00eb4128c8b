"""Pictures of scans with the outlines of their labels: PNG files, drawn without a display and without pyplot.

planes    which planes to show, cut out of a scan in any orientation
drawing   overview: one case in three planes; mosaic: many cases on one sheet
"""

from autoseg3d.pictures.drawing import COLOURS, mosaic, overview
from autoseg3d.pictures.planes import Picture, Plane, cut_planes, grey_window, shown_box

__all__ = ["COLOURS", "Picture", "Plane", "cut_planes", "grey_window", "mosaic", "overview", "shown_box"]

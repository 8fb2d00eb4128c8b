"""The phantom: a synthetic abdomen, so that everything can be tried and tested without patient data.

shapes      signed distances and how they join
anatomy     where a patient's organs lie
appearance  what they look like in a scan
dataset     write_phantom_dataset: the files
"""

from autoseg3d.phantom.anatomy import LABELS
from autoseg3d.phantom.dataset import make_case, write_phantom_dataset

__all__ = ["LABELS", "make_case", "write_phantom_dataset"]

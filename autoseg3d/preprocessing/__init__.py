"""Preprocessing: from a case as read to what a network sees, and the store of prepared cases."""

from autoseg3d.preprocessing.cache import CacheEntry, clean, entries
from autoseg3d.preprocessing.locations import class_locations
from autoseg3d.preprocessing.preparation import cache_key, prepare
from autoseg3d.preprocessing.recipe import Recipe, recipe
from autoseg3d.preprocessing.store import CaseStore, overlap
from autoseg3d.preprocessing.working_case import WorkingCase, preprocess, working_labels

__all__ = [
    "CacheEntry",
    "CaseStore",
    "Recipe",
    "WorkingCase",
    "cache_key",
    "class_locations",
    "clean",
    "entries",
    "overlap",
    "prepare",
    "preprocess",
    "recipe",
    "working_labels",
]

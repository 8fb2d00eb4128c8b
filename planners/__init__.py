"""The planning rules and the contract types of autoseg3d: pure functions of numbers, no files, no torch, no clock."""

"""Resolving, locating and checking checkpoints; the bundled one."""

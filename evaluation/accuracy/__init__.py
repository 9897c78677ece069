"""Scores, labelled folders, readers and reports of accuracy."""

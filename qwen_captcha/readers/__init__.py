"""Readers: a backend with its queue, and a cascade of two."""

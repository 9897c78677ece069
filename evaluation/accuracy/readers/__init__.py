"""Readers of labelled images: a service, a model in this process, ddddocr."""

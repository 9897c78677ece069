"""Measurements of a running service: accuracy, speed and reliability.

Each command below is run as `python -m evaluation.NAME`. It measures a service over HTTP, as any
client sees it, and needs no torch for that.

Accuracy: `evaluate` (labelled folders, with a page), `constraints` (the options that restrict an
answer). Speed: `bench`, `scaling` (instances behind nginx). Reliability: `overload`, `soak`,
`failover`, `graceful_shutdown`, `malformed_images`. Published checkpoints without a download:
`published`. Pictures for the documentation: `screenshots`.
"""

"""Measures: how often a running service is right, and how fast it is.

Responsible for: scores, reading labelled folders, and the commands below, each run as
`python -m evaluation.NAME`. Invariant: an evaluation of a running service needs no torch; it sees
the service as any caller does, over HTTP.

Accuracy: `evaluate` (labelled folders, with a page), `constraints` (the options that restrict an
answer). Speed: `bench`, `scaling` (instances behind nginx). Reliability: `overload`, `soak`,
`failover`, `graceful_shutdown`, `malformed_images`. Published checkpoints without a download:
`published_layout`, `published_shape`. Pictures for the documentation: `screenshots`.
"""

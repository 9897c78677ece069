"""Measurements of a running service: accuracy, speed and reliability.

Each command below is run as `python -m evaluation.NAME`. Most of them measure a service over HTTP,
like any client, and need no torch for that.

Accuracy: `evaluate` (labelled folders, with a page), `kinds` (plain print), `constraints` (options
that restrict an answer), `cascade` (a second reader), `fit` (a user's captchas). Speed: `bench`,
`scaling` (workers and a CPU quota), `gpu`, `openvino`. Reliability: `overload`, `soak`, `failover`
(instances behind nginx), `graceful_shutdown`, `malformed_images`. Published checkpoints without a
download: `published`, `llama_server`. Pictures for the documentation: `screenshots`.
"""

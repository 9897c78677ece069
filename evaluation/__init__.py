"""Measures: how often a running service is right, and how fast it is.

Responsible for: scores, reading labelled folders, the evaluation and the speed comparison. Leaves
reading captchas to `qwen_captcha`, which never imports this package. Invariant: the scores and the
accuracy evaluation need no torch; they see the service as any caller does, over HTTP.
"""

"""Admission, the queue, batches, pending results and the cache of answers."""

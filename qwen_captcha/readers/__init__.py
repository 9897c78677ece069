"""One backend with its queue, and a second one behind it."""

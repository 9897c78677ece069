"""Which checkpoint is served, where its files are, and what they say; the bundled one."""

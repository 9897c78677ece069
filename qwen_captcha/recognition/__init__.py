"""From options to prompt and constraints, from a model's text to an answer."""

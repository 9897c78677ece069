"""From the bytes of an image file to the picture that a model is shown."""

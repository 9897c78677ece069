"""Engines that turn an image into text; the service knows only `base.Backend`."""

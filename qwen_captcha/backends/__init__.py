"""Engines that turn an image into text, behind the protocol `base.Backend`."""

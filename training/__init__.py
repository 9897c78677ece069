"""The bundled checkpoint's making: renderer, text sampler, checkpoint builder, trainer.

The service never imports this package.
"""

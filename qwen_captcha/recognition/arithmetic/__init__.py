"""Arithmetic captchas: from the expression drawn to its value."""

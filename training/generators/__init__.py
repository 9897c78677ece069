"""Labelled images drawn by captcha libraries that web developers install.

Each library has a driver in `drivers/`: its families, and how one image is drawn.  A family is a
library with a rule that picks settings.  Image `i` of a family depends on the seed and `i` alone,
where the library lets its chance be seeded.  Libraries are installed on request, into a folder of
their own; the project does not depend on them.
"""

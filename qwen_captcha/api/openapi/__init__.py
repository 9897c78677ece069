"""The OpenAPI description of the HTTP interface, made from the tables that the service runs on.

`operations.py` has one entry a route; `document.py` makes the document of them.
"""

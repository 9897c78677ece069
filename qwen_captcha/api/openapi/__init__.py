"""The OpenAPI description of the HTTP interface, made from the tables that the service runs on.

`operations.py` has one entry for each route; `document.py` makes the document from them.
"""

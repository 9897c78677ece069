"""The HTTP interface: routes, parsing of requests, access control, pages."""

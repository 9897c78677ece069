"""The interfaces of ddddocr's own servers, one module a server."""

"""The process that serves the application: gunicorn, sockets, signals."""

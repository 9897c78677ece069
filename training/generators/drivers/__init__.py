"""One module a library: its families, and for Python libraries how one image is drawn."""

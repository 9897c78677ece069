"""PP-OCRv6 small, the text recogniser of rapidocr, as a second reader."""

"""Labels of a folder of captchas, and the images that the service collects into such a folder."""

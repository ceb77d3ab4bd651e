"""The judge: datasets, metrics and suites; it knows prompts and images, never how an image was made."""

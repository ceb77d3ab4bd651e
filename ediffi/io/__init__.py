"""Files, locks, URLs, images and processes: used by every other package."""

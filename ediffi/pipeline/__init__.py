"""A prompt becomes an image: the cascade, its stages, their options and their checkpoint."""

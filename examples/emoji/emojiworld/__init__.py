"""A world of pictures that people drew: emoji by several artists, put together to captioned scenes."""

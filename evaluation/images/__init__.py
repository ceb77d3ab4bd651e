"""Pictures to be judged: read with care, stored by number, made by whoever is handed in."""

"""Images on disk, by number: found, generated, verified, resumed."""

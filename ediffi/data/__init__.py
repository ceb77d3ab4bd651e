"""WebDataset shards with embeddings in them: writing, reading in a reproducible order, batches for training."""

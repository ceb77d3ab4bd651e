"""Embeddings of a dataset, computed once: shard by shard, by any number of processes."""

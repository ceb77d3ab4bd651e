"""Embeddings of a data set, computed once: shard by shard, by any number of processes, under a ledger."""

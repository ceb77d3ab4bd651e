"""LightningModules that train the encoders of captions and images, from shards without embeddings: `ediffi fit`."""

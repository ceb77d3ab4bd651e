"""What makes the Toybox model: training of its encoders, its shards, and measurements of the trained model."""

"""What makes the Toybox model: training of its encoders, its shards, and the measurements that gate them."""

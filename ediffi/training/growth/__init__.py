"""What becomes of training runs: their checkpoints are read, a schedule grows experts of them, stages are composed."""

"""What trains a stage: the LightningModule, its callbacks, resuming, growing experts, composing a cascade."""

"""Training: one LightningModule trains one denoiser of one stage."""

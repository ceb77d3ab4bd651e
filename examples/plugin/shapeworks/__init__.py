"""A plug-in for ediffi: an encoder, a denoiser and a sampler of a team's own, found by their entry points."""

"""Growing a stage into experts, and composing finished runs into a model folder."""

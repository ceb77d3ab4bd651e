"""The emoji world as an evaluation dataset: prompts with a known truth, and a judge that reads pictures."""

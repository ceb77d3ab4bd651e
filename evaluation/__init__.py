"""The judge: datasets, metrics and suites; it knows prompts and images, never how an image was made."""

# The folder stands at the top of the checkout too: under a second name its classes would not be the package's own.
if __name__ != "ediffi.evaluation":
    raise ImportError(f"this package is imported as ediffi.evaluation, not as {__name__}")

"""The experiments of the papers as code."""

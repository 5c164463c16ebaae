"""The experiments of Spectral Shells, and what they share."""

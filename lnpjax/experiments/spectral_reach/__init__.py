"""The experiments of Spectral Reach on networks, and what they share."""

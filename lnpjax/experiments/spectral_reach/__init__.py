"""The experiments of Spectral Reach on networks in training, and what they share."""

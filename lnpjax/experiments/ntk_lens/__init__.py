"""The experiments of NTK Lens, and what they share."""

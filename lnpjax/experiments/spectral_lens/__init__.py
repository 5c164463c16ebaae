"""What the experiments of *Spectral Lens* on nanoGPT share: runs, their rates and their spectra."""

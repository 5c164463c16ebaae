"""What every part of the library stands on: checks, files, traced programs, numerics."""

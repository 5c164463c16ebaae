"""What receives the progress events of a long computation."""

from __future__ import annotations


class Reporter:
    """Is told how a run goes; this one keeps it to itself.

    Example:
        >>> reporter = Reporter()
        >>> reporter.start(0, 10)
        >>> reporter.update(1, loss=2.5, chi_pos=None)
        >>> reporter.stop()
    """

    def note(self, text: str) -> None:
        """Something worth knowing."""

    def warn(self, text: str) -> None:
        """Something that may be wrong."""

    def start(self, step: int, steps: int, *, measured: int = 0) -> None:
        """Training begins.

        Args:
            step: steps done before.
            steps: steps in all.
            measured: measurements made before.
        """

    def update(self, step: int, *, loss: float, chi_pos: float | None) -> None:
        """A step is done.

        Args:
            step: steps done.
            loss: its training loss.
            chi_pos: its spectral position, if it was measured.
        """

    def stop(self) -> None:
        """Training has ended."""

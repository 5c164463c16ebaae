"""What receives the progress events of a long computation."""

from __future__ import annotations


class Reporter:
    """Receives the progress events of a run; this one ignores them.

    Example:
        >>> reporter = Reporter()
        >>> reporter.start(0, 10)
        >>> reporter.update(1, loss=2.5, chi_pos=None)
        >>> reporter.stop()
    """

    def note(self, text: str) -> None:
        """Report something worth knowing."""

    def warn(self, text: str) -> None:
        """Report something that may be wrong."""

    def start(self, step: int, steps: int, *, measured: int = 0) -> None:
        """Report that training begins.

        Args:
            step: steps done before.
            steps: steps in all.
            measured: measurements made before.
        """

    def update(self, step: int, *, loss: float, chi_pos: float | None) -> None:
        """Report that a step is done.

        Args:
            step: steps done.
            loss: its training loss.
            chi_pos: its spectral position, if it was measured.
        """

    def score(self, *, accuracy: float) -> None:
        """Report that the network was validated.

        Args:
            accuracy: the share of samples whose class it predicts.
        """

    def stop(self) -> None:
        """Report that training has ended."""

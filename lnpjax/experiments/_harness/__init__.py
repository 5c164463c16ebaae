"""What every experiment shares: a resumable sweep, claims with their judgement, and one runner."""

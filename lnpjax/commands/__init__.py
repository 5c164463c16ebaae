"""What `lnpjax` can be told to do: one dataclass per subcommand, whose text is its help."""

"""The subcommands of `lnpjax`: one dataclass each, whose text is its help."""

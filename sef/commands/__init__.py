"""The code of the subcommands of the command line."""

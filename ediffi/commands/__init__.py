"""What `ediffi COMMAND` runs: one module a command, each with `main(argv: list[str]) -> int`."""

"""One module per command; each has `main(argv) -> exit code` and reads its own options."""

"""The `jang` command: one file per command, thin over the public functions of the package."""

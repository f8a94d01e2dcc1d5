"""One module per command; the only code, with the command line itself, that may import everything else."""

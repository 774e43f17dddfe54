"""The ``histoslide`` command. Arguments in, library calls, exit codes out; nothing else."""

"""Command lines as processes on this machine, or as a cluster's jobs."""

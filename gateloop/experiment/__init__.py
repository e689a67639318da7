"""An experiment: its file, the runs it asks for, their records, the processes that make them."""

"""A sweep: its file, its trials on Optuna or on the W&B server, what came of them."""

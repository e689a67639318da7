"""gateloop: honest, fast, reproducible comparison of linear recurrent sequence models."""

"""What a trained GateLoop does with its state transitions: seen, and put to the test."""

"""What ``python -m gateloop.bench`` measures, how it pairs the times, and the page it writes."""

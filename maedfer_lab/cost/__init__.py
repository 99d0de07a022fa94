"""What the models cost: by closed formula, by two counters, and by clock and memory."""

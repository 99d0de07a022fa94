"""Cost of the models: by closed formula, two counters, measured time and memory."""

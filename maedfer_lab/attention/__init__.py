"""An encoder's attention: captured by its own code, rolled out over layers, measured."""

"""An encoder's attention: captured by its own code, followed through layers, measured."""

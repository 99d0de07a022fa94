"""Evidence: results with provenance, and the figures drawn from them. Never needs torch."""

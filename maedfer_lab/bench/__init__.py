"""`maedfer bench`: cost of models, data and tests, compared with a floor and plain code."""

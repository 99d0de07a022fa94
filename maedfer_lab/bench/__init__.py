"""`maedfer bench`: what our models, data and tests cost, beside a floor and beside plain code."""

"""maedfer_lab: understand, check, run and extend MAE-DFER."""

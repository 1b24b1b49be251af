"""How far a trained model can be relied on: measured on test, calibrated on val, and told in the model card."""

"""What predictions are worth where a model is deployed."""

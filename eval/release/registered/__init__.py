"""What a registered release is to MLflow: a model that its own functions load, and a page that people read."""

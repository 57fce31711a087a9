"""From settings to a trained network."""

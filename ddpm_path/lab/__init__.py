"""The bench that the mathematics is tried on: data, training, shipped models, metrics, figures, the runner."""

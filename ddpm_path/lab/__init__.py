"""The bench that the mathematics is tried on: data, training, models, metrics, figures, the runner and its pages."""

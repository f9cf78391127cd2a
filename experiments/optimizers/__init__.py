"""What questions about optimizers share: tuning, stored baselines, and what can be held against a comparison."""

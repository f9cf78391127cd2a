"""Shared by questions about optimizers: tuning, stored baselines, contests, and checks of fairness."""

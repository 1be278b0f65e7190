"""--strategy between-graph: TF1's sessions and Estimator; every process runs train()."""

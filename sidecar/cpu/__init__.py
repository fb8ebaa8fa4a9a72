"""The CPU engines: where ``run_cpu`` runs, and how a call gets there and back."""

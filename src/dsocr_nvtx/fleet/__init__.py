"""Many reports: joined one by one wherever there are cores, kept as one partitioned dataset, and held side by side."""

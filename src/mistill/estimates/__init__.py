"""What a run will take and cost, told before it is asked: forecasts from a sample, and dry runs."""

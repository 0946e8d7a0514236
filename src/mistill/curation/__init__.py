"""What is done with a dataset beside asking a model: near duplicates taken out."""

"""What `benchmarks/fetch.py` can fetch, by kind, and how its files are made from archives."""

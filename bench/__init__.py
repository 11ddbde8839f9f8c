"""Measures the gateway beside other proxies. Run it by `make bench` or `python -m bench --help`."""

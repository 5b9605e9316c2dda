"""Networks that know no probability."""

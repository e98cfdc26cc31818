"""Pure functions from features to metric values with their errors; `registry` lists them."""

"""From a plan to committed shards and from features to records, without Ray."""

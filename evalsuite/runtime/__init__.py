"""Ray: the cluster, its workers and the driver. The only room that imports it."""

"""The only place that talks to ClickHouse: a server, a cluster, or the engine inside this process."""

"""Stand-ins for servers: an embedded Redis, an embedded ClickHouse engine and its HTTP interface."""

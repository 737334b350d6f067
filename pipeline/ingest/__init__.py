"""From the producers to ClickHouse: push, seal, claim, write, verify, ack."""

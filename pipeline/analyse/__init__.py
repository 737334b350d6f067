"""Pure computation: functions on arrays, each testable without a store, a clock or a network."""

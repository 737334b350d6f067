"""Alerts: rules, their states, and how people hear of them.

::

    rules.yaml ─▶ rules ─┐
    windows ─▶ sources ─▶ groups ─▶ evaluation ─▶ state (pure) ─▶ transitions
    facts ───────────────┘                              │
                     evaluator: one commit makes states, watermarks and outboxes true together (journal)
                                  │                     │
                     publish: alerts table,      dispatch (pure) ─▶ notify ─▶ channels
                     alerts:performance, alerts:critical

What decides is pure (``state``, ``groups``, ``evaluation``, ``dispatch``); ``journal`` is the one
truth about what has been decided, and everything after it may be repeated.
"""

"""Results of evaluations: results.json read, compared, and shown as tables and figures."""

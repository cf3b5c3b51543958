"""Provider adapters: one protocol each."""
